-- Forget that a step began: it raised. A result stays.
--
-- KEYS  the record
-- ARGV  token, name
--
-- Returns  1, or 0: fenced
local record = KEYS[1]

local found = redis.call('HMGET', record, 'state', 'token')

if found[2] ~= ARGV[1] or found[1] == 'released' then
    return 0
end
redis.call('HDEL', record, 'began:' .. ARGV[2])
return 1
