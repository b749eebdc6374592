-- Give the key back.
--
-- KEYS  the record
-- ARGV  token
--
-- Returns  1: given back;  0: completed, or another's;  -1: there is no such record
local record = KEYS[1]

local found = redis.call('HMGET', record, 'token', 'lease_ends')
local found_token, lease_ends = found[1], found[2]

if not found_token then
    return -1
end
if found_token ~= ARGV[1] or not lease_ends then
    return 0
end
redis.call('DEL', record)
return 1
