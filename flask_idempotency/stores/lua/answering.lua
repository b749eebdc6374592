-- The handler has returned, and its response is about to be streamed: the work is done, and never runs again.
--
-- KEYS  the record
-- ARGV  token, lease in milliseconds
--
-- Returns  1, or 0: fenced
local record, lease = KEYS[1], tonumber(ARGV[2])

local found = redis.call('HMGET', record, 'state', 'token')
local state = found[1]

if found[2] ~= ARGV[1] or state == 'released' then
    return 0
end
if state == 'completed' then
    return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', record, 'state', 'answering', 'lease_ends', string.format('%.0f', now + lease))
local left = redis.call('PTTL', record)
if 0 <= left and left < lease then
    redis.call('PEXPIRE', record, ARGV[2])
end
return 1
