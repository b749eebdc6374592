-- What was kept of the steps of this record.
--
-- KEYS  the record
--
-- Returns  fields and their values in turn: "step:" and a name with its result, "began:" and a name with nothing
local fields = redis.call('HGETALL', KEYS[1])
local steps = {}
for place = 1, #fields, 2 do
    if string.find(fields[place], '^step:') or string.find(fields[place], '^began:') then
        steps[#steps + 1] = fields[place]
        steps[#steps + 1] = fields[place + 1]
    end
end
return steps
