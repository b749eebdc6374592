-- Note that a step is about to begin. It never replaces a result.
--
-- KEYS  the record
-- ARGV  token, name, retention in milliseconds
--
-- Returns  1, or 0: fenced, and nothing was noted
local record, name, retention = KEYS[1], ARGV[2], tonumber(ARGV[3])

local found = redis.call('HMGET', record, 'state', 'token', 'step:' .. name)

if found[2] ~= ARGV[1] or (found[1] ~= 'running' and found[1] ~= 'answering') then
    return 0
end
if not found[3] then
    redis.call('HSET', record, 'began:' .. name, '')
end
local left = redis.call('PTTL', record)
if 0 <= left and left < retention then
    redis.call('PEXPIRE', record, ARGV[3])
end
return 1
