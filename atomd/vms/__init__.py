"""One host's VMs as records: the states of their lives, what may follow what, and who has a say in it."""
