-- The handler has returned, and its response is about to be streamed: the work is done, and never runs again. A record
-- that is gone is inserted anew.
--
-- KEYS  the record
-- ARGV  token, fingerprint, key, method, path, lease in milliseconds
--
-- Returns  1, or 0: fenced, given back or abandoned
local record, token, lease = KEYS[1], ARGV[1], tonumber(ARGV[6])

local found = redis.call('HMGET', record, 'state', 'token', 'retention')
local state, retention = found[1], found[3]

if state == 'completed' and found[2] == token then
    return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not state then
    retention = '86400000'  -- nothing says how long it was to be kept
    redis.call('HSET', record, 'fingerprint', ARGV[2], 'token', token, 'started', string.format('%.0f', now),
        'retention', retention, 'key', ARGV[3], 'method', ARGV[4], 'path', ARGV[5])
elseif found[2] ~= token or (state ~= 'running' and state ~= 'answering') then
    return 0
end
-- Should its lease end, it is done, and is kept from then on.
-- A server that is out of memory takes no new fields, unless a script has written something else before.
redis.call('PEXPIRE', record, string.format('%.0f', lease + retention))
redis.call('HSET', record, 'state', 'answering', 'lease_ends', string.format('%.0f', now + lease))
return 1
