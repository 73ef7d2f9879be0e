"""What travels: frozen messages, their codec, and the envelope that signs them. Pure."""
