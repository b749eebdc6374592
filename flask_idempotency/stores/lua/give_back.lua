-- Undo a claim that nobody ever ran under. One that had been taken over lapses again: what its holder did is not known.
--
-- KEYS  the record
-- ARGV  token, retention in milliseconds
--
-- Returns  1 where it is undone, else 0
local record = KEYS[1]

local found = redis.call('HMGET', record, 'state', 'token', 'number', 'lapsed')

if found[1] ~= 'running' or found[2] ~= ARGV[1] then
    return 0
end
if found[3] == '1' then
    redis.call('DEL', record)
    return 1
end
if found[4] == '1' then
    redis.call('HSET', record, 'number', found[3] - 1, 'lease_ends', 0)
else
    redis.call('PEXPIRE', record, ARGV[2])
    redis.call('HSET', record, 'number', found[3] - 1, 'state', 'released')
end
return 1
