-- Begin a rebuild: from here on readers see by the missing sequence that it is under way.
--
-- KEYS: 1 seq, 2 chain, 3 next, 4 rebuild, 5 names, 6 ends, 7 stream
-- ARGV: 1 token   2 how long it lives (ms)   3 the sequence that was seen, or empty   4 "fork": drop the stream too
--       5 who was seen to rebuild, or empty
-- Answer: begun | held (by another) | changed (somebody has written since it was looked)

if (redis.call('GET', KEYS[4]) or '') ~= ARGV[5] then return 'held' end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[3] then return 'changed' end
redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('UNLINK', KEYS[5], KEYS[6])
if ARGV[4] == 'fork' then redis.call('UNLINK', KEYS[7]) end
return 'begun'
