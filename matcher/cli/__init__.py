"""`electros`: one file for each noun, one renderer."""
