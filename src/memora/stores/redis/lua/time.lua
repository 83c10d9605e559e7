-- Does not include `common.lua`. -> seconds and microseconds by the clock of the shard's node.

return redis.call('TIME')
