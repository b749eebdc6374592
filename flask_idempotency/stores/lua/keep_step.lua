-- Keep the result of a step.
--
-- KEYS  the record
-- ARGV  token, name, result, retention in milliseconds
--
-- Returns  1, or 0: fenced, and nothing was kept
local record, name, retention = KEYS[1], ARGV[2], tonumber(ARGV[4])

local found = redis.call('HMGET', record, 'state', 'token')

if found[2] ~= ARGV[1] or (found[1] ~= 'running' and found[1] ~= 'answering') then
    return 0
end
redis.call('HSET', record, 'step:' .. name, ARGV[3], 'steps_kept', 1)
redis.call('HDEL', record, 'began:' .. name)
local left = redis.call('PTTL', record)
if 0 <= left and left < retention then
    redis.call('PEXPIRE', record, ARGV[4])
end
return 1
