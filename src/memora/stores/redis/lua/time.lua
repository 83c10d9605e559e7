-- Without what every script begins with. -> seconds and microseconds, by the clock of the node that
-- has the shard.

return redis.call('TIME')
