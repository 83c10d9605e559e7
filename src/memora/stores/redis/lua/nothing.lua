-- For what rides with it.

return 0
