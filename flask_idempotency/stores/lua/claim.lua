-- May this request run? The record is claimed where it is free or was given back, or where its claim lapsed with the
-- same fingerprint. A claim sent again, since its reply was lost, recognises its own token.
--
-- KEYS  the record
-- ARGV  token, fingerprint, key, method, path, lease, retention, and how long the record lives until it is completed, or
--       "" where a claim that lapsed may not be taken over: then it has no expiry; durations in milliseconds
--
-- Returns  1: claimed, and nobody was here before
--          {"claimed", number, 1 where an earlier holder vanished, else 0}
--          {"in progress", fingerprint, milliseconds since it began, milliseconds left of the lease}
--          {"lapsed", fingerprint}
--          {"completed", fingerprint, response or nil}
local record = KEYS[1]
local token, fingerprint, lifetime = ARGV[1], ARGV[2], ARGV[8]

-- No more than a replay needs; most other requests find nothing here.
local found = redis.call('HMGET', record, 'state', 'fingerprint', 'response')
local state, found_fingerprint = found[1], found[2]

if state == 'completed' then
    return found
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number, lapsed

if state then
    local more = redis.call('HMGET', record, 'token', 'number', 'lapsed', 'started', 'lease_ends', 'steps_kept')
    local same = found_fingerprint == fingerprint
    number, lapsed = tonumber(more[2] or 1), 0
    if state == 'released' then
        if not same then
            if more[6] then
                return {'lapsed', found_fingerprint}
            end
            -- Marks of steps that began are another request's.
            redis.call('DEL', record)
        end
        number = number + 1
    elseif state == 'unknown' then
        return {'lapsed', found_fingerprint}
    elseif more[1] == token then
        lapsed = tonumber(more[3] or 0)
    else
        local left = more[5] - now
        if left > 0 then
            return {'in progress', found_fingerprint, now - more[4], left}
        elseif state == 'answering' then
            return {'completed', found_fingerprint, false}
        elseif lifetime == '' or not same then
            return {'lapsed', found_fingerprint}
        end
        number, lapsed = number + 1, 1
    end
end

redis.call('HSET', record, 'state', 'running', 'fingerprint', fingerprint, 'token', token,
    'started', string.format('%.0f', now), 'lease_ends', string.format('%.0f', now + ARGV[6]),
    'retention', ARGV[7], 'key', ARGV[3], 'method', ARGV[4], 'path', ARGV[5])
if not state then
    if lifetime ~= '' then
        redis.call('PEXPIRE', record, lifetime)
    end
    return 1
end
-- Where neither is said, it is the first attempt, and nobody vanished.
redis.call('HSET', record, 'number', number, 'lapsed', lapsed)
if lifetime == '' then
    redis.call('PERSIST', record)
elseif redis.call('PTTL', record) < tonumber(lifetime) then
    redis.call('PEXPIRE', record, lifetime)
end
return {'claimed', number, lapsed}
