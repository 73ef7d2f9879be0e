"""Who is in the realm, whether they live, and what is free there: every host's own view, kept like all others'.

ALGORITHM. SWIM (Das, Gupta and Motivala, "SWIM: scalable weakly-consistent infection-style process group membership
protocol", 2002) with Lifeguard (Dadgar, Phillips and Currey, "Lifeguard: local health awareness for more accurate
failure detection", 2018), on a link that has multicast:

- *Probing.* Each round of 2 s a host pings one other, whose turn a shuffle decides that all hosts compute alike, so
  that each host is pinged once in a round and by another one each time. No answer: three others are asked to ping it.
  Still none: it is *suspect*, and has some seconds to object, fewer the more hosts say the same on their own.
- *Refused* datagrams (ICMP: nobody listens there) are no silence: two witnesses make it *daemon-down*, at once, and
  never *gone*, since its VMs may be running.
- *Spreading.* What changes is multicast once, and once more a little later. Hosts that are not heard by multicast get
  it by gossip: piggybacked and pushed, each statement a number of times that grows with the logarithm of the realm.
- *Repair.* Each ping and ack carries one mark of all that its sender knows. Where two differ, they compare marks of 64
  buckets, list what is in those that differ, and send what the other lacks (push/pull anti-entropy: Demers et al.,
  "Epidemic algorithms for replicated database maintenance", 1987).

INVARIANT. A view is a map from host to (incarnation, counter, state), and every change climbs in that order; a host's
incarnation and counter are its own alone, signed by it. So any two views have a least upper bound, messages may be
lost, doubled and reordered, and hosts that exchange all they know agree. One step leads down: a machine that was called
gone and refuses a ping is not, for whoever has seen that; all others ping it as well, now and then. A host that is
reachable objects to what is said of it by a higher incarnation; nobody is *gone* who did not stay silent here, too, for
the shortest time that a suspicion may take, whatever others say.
"""
