-- Returns nothing; fails if the server takes no writes.

call('HSET', META, 'checked', 1)
return 0
