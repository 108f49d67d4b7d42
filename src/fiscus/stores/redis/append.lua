-- Append entries of the journal to the stream, each once and in order, and tell of terminations.
--
-- KEYS: 1 stream
-- ARGV: 1 length that the stream is cut to   2 channel
--       3 entries, MessagePack: {seq, time (ms), kind, body, chain hash, what to tell on the channel or ""}
--       4 "jump" if entries before the first may be left out
-- Answer: sequence of the last entry in the stream; 0: there is none.

local last = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  local about = redis.call('XINFO', 'STREAM', KEYS[1])
  for index = 1, #about, 2 do
    if about[index] == 'last-generated-id' then
      last = tonumber(string.match(about[index + 1], '^%d+'))
    end
  end
end
local may_jump = ARGV[4] == 'jump'
for _, entry in ipairs(cmsgpack.unpack(ARGV[3])) do
  local seq = tonumber(entry[1])
  if seq > last then
    if seq ~= last + 1 and not may_jump then return last end
    may_jump = false
    redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], entry[1] .. '-0',
      'at', entry[2], 'kind', entry[3], 'body', entry[4], 'hash', entry[5])
    if entry[6] ~= '' then redis.call('PUBLISH', ARGV[2], entry[6]) end
    last = seq
  end
end
return last
