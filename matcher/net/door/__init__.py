"""The front door: HTTPS for users and the realm's members, and joining for those who hold a token.

    a connection --silent--> speaks --handshake--> member ---requests---> rooms, realm_rooms
                   |            |           '-----> joiner (a token is pending) ---> joining
                   '-- stranger's share --'

Who has not shown a certificate of the realm gets the handshake and nothing else, from a share of connections that is
their own. `serving` listens, `admission` says how many and how much, `entrance` judges each request, the rooms answer.
What stands behind it all is a `Host` and a `Desk`: see `behind`.
"""
