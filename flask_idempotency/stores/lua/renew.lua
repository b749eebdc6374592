-- Prolong a claim. One that is completed, released or another's stays as it is.
--
-- KEYS  the record
-- ARGV  token, lease in milliseconds
--
-- Returns  1 where it was prolonged, else 0
local record = KEYS[1]
local token, lease = ARGV[1], tonumber(ARGV[2])

local found = redis.call('HMGET', record, 'token', 'lease_ends')
local found_token, lease_ends = found[1], found[2]

if found_token ~= token or not lease_ends then
    return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', record, 'lease_ends', string.format('%.0f', now + lease))
-- The record must outlive its lease: a claim that expired could not be told from one that never was.
if redis.call('PTTL', record) < lease then
    redis.call('PEXPIRE', record, string.format('%.0f', lease))
end
return 1
