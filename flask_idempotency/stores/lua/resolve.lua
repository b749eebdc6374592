-- A person knows what became of it. A repeat recognises itself by the token that it left in the record.
--
-- KEYS  the record
-- ARGV  a new token, "completed" or "released", retention in milliseconds
--
-- Returns  1, or 0: there is no such record, or its outcome is known
local record = KEYS[1]

local found = redis.call('HMGET', record, 'state', 'lease_ends', 'resolved_by')
local state = found[1]

if found[3] ~= ARGV[1] then
    if state == 'running' then
        local time = redis.call('TIME')
        if tonumber(found[2]) > time[1] * 1000 + math.floor(time[2] / 1000) then
            return 0
        end
    elseif state ~= 'unknown' then
        return 0
    end
end
-- A server that is out of memory takes no new fields, unless a script has written something else before.
redis.call('PEXPIRE', record, ARGV[3])
if ARGV[2] == 'released' then
    -- Steps that began and were not kept were not done either.
    for _, field in ipairs(redis.call('HKEYS', record)) do
        if string.sub(field, 1, 6) == 'began:' then
            redis.call('HDEL', record, field)
        end
    end
end
redis.call('HSET', record, 'state', ARGV[2], 'resolved_by', ARGV[1])
return 1
