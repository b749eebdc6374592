-- May this request run? The record is claimed where it is free, or where its claim lapsed with the same fingerprint.
-- A claim sent again, since its reply was lost, recognises its own token.
--
-- KEYS  the record
-- ARGV  fingerprint, token, lease, retention, "1" where a lapsed claim may be taken over; durations in milliseconds
--
-- Returns  {"claimed", number}
--          {"in progress", fingerprint, milliseconds left of the lease}
--          {"completed", fingerprint, response or nil}
local record = KEYS[1]
local fingerprint, token, take_over = ARGV[1], ARGV[2], ARGV[5] == '1'
local lease, retention = tonumber(ARGV[3]), tonumber(ARGV[4])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local found = redis.call('HMGET', record, 'fingerprint', 'token', 'number', 'lease_ends')
local found_fingerprint, found_token, found_number, lease_ends = found[1], found[2], found[3], found[4]

local number = 1
if found_fingerprint then
    if not lease_ends then
        return {'completed', found_fingerprint, redis.call('HGET', record, 'response')}
    end
    local left = lease_ends - now
    if found_token == token then
        number = tonumber(found_number)
    elseif left <= 0 and take_over and found_fingerprint == fingerprint then
        number = found_number + 1
    else
        return {'in progress', found_fingerprint, left}
    end
end

redis.call('HSET', record, 'fingerprint', fingerprint, 'token', token, 'number', number,
    'lease_ends', string.format('%.0f', now + lease))
redis.call('PEXPIRE', record, string.format('%.0f', math.max(lease, retention)))
return {'claimed', number}
