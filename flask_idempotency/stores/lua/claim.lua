-- May this request run? The record is claimed where it is free or was given back, or where its claim lapsed with the
-- same fingerprint. A claim sent again, since its reply was lost, recognises its own token.
--
-- KEYS  the record
-- ARGV  token, fingerprint, key, method, path, lease, "1" where a lapsed claim may be taken over, how long the record
--       lives until it is completed, or "" where it has no expiry; durations in milliseconds
--
-- Returns  {"claimed", number, 1 where an earlier holder vanished, else 0}
--          {"in progress", fingerprint, milliseconds since it began, counted from its whole second, milliseconds left of the lease}
--          {"lapsed", fingerprint}
--          {"completed", fingerprint, response or nil}
local record = KEYS[1]
local token, fingerprint, lifetime = ARGV[1], ARGV[2], ARGV[8]

local found = redis.call('HMGET', record,
    'state', 'fingerprint', 'response', 'token', 'number', 'lapsed', 'started', 'lease_ends', 'steps_kept')
local state, found_fingerprint = found[1], found[2]

if state == 'completed' then
    return {'completed', found_fingerprint, found[3]}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number, lapsed = 1, 0  -- what a record says that says nothing of it

if state then
    local same = found_fingerprint == fingerprint
    if state == 'released' then
        if same then
            number = (found[5] or 1) + 1
        elseif found[9] then
            return {'lapsed', found_fingerprint}
        else
            redis.call('DEL', record)
        end
    elseif state == 'unknown' then
        return {'lapsed', found_fingerprint}
    elseif found[4] == token then
        number, lapsed = tonumber(found[5] or 1), tonumber(found[6] or 0)
    else
        local left = found[8] - now
        if left > 0 then
            return {'in progress', found_fingerprint, now - found[7] * 1000, left}
        elseif state == 'answering' then
            return {'completed', found_fingerprint, false}
        elseif ARGV[7] ~= '1' or not same then
            return {'lapsed', found_fingerprint}
        end
        number, lapsed = (found[5] or 1) + 1, 1
    end
end

redis.call('HSET', record, 'state', 'running', 'fingerprint', fingerprint, 'token', token, 'started', time[1],
    'lease_ends', string.format('%.0f', now + ARGV[6]), 'key', ARGV[3], 'method', ARGV[4], 'path', ARGV[5])
if not state then
    if lifetime ~= '' then
        redis.call('PEXPIRE', record, lifetime)
    end
    return {'claimed', 1, 0}
end
redis.call('HSET', record, 'number', number, 'lapsed', lapsed)
if lifetime == '' then
    redis.call('PERSIST', record)
elseif redis.call('PTTL', record) < tonumber(lifetime) then
    redis.call('PEXPIRE', record, lifetime)
end
return {'claimed', number, lapsed}
