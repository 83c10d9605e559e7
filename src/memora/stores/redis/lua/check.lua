-- -> nothing; a server that takes no writes says why.

call('HSET', META, 'checked', 1)
return 0
