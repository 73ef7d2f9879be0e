"""Relays: any host asks in a user's stead where the user's own datagrams do not get to.

    electros == one line by HTTPS ==> front door of any host --> multicast on each of its links, from the lent address
                <= answers as they come =                    --> members that multicast does not reach, by HTTPS

    electros == a tunnel through the same door ==> the front door of the host that is to be asked more

What goes by the line is signed by the user and by the hosts that answer; in the tunnel is TLS from end to end. The
relay passes it on, or does not: that, and taking its time, is all that it can do (docs/protocol.md).
"""
