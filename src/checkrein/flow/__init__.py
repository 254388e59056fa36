"""State machines without I/O: events in, commands out, states in a table.

`action`    one governed action, from submission to the recorded end
`approval`  a durable request to people: pending, decided, used
`delegation` who votes in whose place
`delivery`  how far a destination outside has been told, and when to try again
`drift`     whether production still looks like the golden set, from counts of both
`emergency` break-glass, and the review it leaves
`grant`     a standing, bounded permission that people gave
`promotion` the verdict of a gate, from figures; `limits` is what a challenger must keep
`quota`     what somebody used, and whether they may use more
`rollout`   traffic on its way from a stable arm to a canary, and back; `window` is what was counted of both

An illegal event raises and changes nothing. `diagram` draws `docs/flow.md` from the tables. Who calls
the disk, the network and the clock is `services`. Start with `action`.
"""
