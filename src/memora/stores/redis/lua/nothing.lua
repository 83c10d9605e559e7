-- Does nothing itself; applies the uses sent with the call.

return 0
