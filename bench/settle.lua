-- Book what was used, on every level and in both units, and give back what was held.
-- KEYS: the hold, then the accounts, leaf first. ARGV: tokens, cost.
local held = redis.call('HMGET', KEYS[1], 'tokens', 'cost')
if not held[1] then
    return 'unknown'
end
for level = 2, #KEYS do
    redis.call('HINCRBY', KEYS[level], 'tokens_held', -held[1])
    redis.call('HINCRBY', KEYS[level], 'cost_held', -held[2])
    redis.call('HINCRBY', KEYS[level], 'tokens_spent', ARGV[1])
    redis.call('HINCRBY', KEYS[level], 'cost_spent', ARGV[2])
end
redis.call('DEL', KEYS[1])
return 'settled'
