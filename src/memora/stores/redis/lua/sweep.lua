-- now, limit -> number of removed entries.

local now = tonumber(arg())
return purge(now, tonumber(arg()))
