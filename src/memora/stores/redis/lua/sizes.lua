-- how many members -> entries, bytes, and the first members to evict by fifo or lru: score, member.

local queue = policy == 'lru' and placed() and QUEUE or ORDER
local members = call('ZRANGE', queue, 0, tonumber(arg()) - 1, 'WITHSCORES')
return { call('ZCARD', ORDER), tonumber(call('HGET', META, 'bytes') or 0), members }
