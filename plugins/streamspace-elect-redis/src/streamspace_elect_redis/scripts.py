"""The atomic steps as Lua scripts, and their results. A script is sent whole each time: 2 KB, always one round trip.

Three keys hold one lease. Their names put them into one slot of a Redis Cluster:

* ``streamspace:agent:leader:ID``: the leader's instance id, with the lease as its TTL. For people and for programs that
  read the documented key. Its TTL decides nothing, since it runs on the server's wall clock.
* ``{streamspace:agent:leader:ID}:record``: a hash with the fields of ``Record``, and ``history``.
* ``{streamspace:agent:leader:ID}:epoch``: the last epoch granted. Neither of the two expires.

``history`` is the replication id (``master_replid``) under which a record was written. Redis gives itself a new one at
every start and at every promotion of a replica. A record with another id came from a copy, and a newer one may be lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_COMMON = """
local leader, record, epoch = KEYS[1], KEYS[2], KEYS[3]
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('READONLY this Redis is a replica')
end
local here = string.match(info, 'master_replid:(%x+)') or 'none'
local shown = redis.call('GET', leader)
local fields, r = redis.call('HGETALL', record), nil
if #fields > 0 then
  r = {}
  for i = 1, #fields, 2 do r[fields[i]] = fields[i + 1] end
end
local function look(answer)
  local last = redis.call('GET', epoch)
  return {answer, here, redis.call('GET', leader), redis.call('PTTL', leader), redis.call('HGETALL', record), last}
end
-- Set by a program that knows only the documented key, or by an operator.
local foreign = shown and not (r and r.holder == shown)
local function ours() return r and r.nonce == ARGV[1] and r.epoch == ARGV[2] and r.released == '0' end
"""

_OBSERVE = "return look('seen')"

# ARGV: nonce, lease ms, epoch floor, revision seen ('' for "no record"), then the record's other fields by name
_ACQUIRE = """
local nonce, lease, floor, seen = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if foreign then return look('held') end
if r and r.nonce == nonce and r.released == '0' and r.history == here then return look('granted') end
local now = here
if r then now = table.concat({here, r.nonce, r.epoch, r.sequence}, ' ') end
if seen == '' and r or seen ~= '' and seen ~= now then return look('held') end
local last = tonumber(redis.call('GET', epoch) or '') or 0
if r then last = math.max(last, tonumber(r.epoch) or 0) end
-- tostring() would write 1.7e+12
local next = string.format('%.0f', math.max(last, tonumber(floor)) + 1)
redis.call('DEL', record)
redis.call('HSET', record, 'nonce', nonce, 'lease_ms', lease, 'epoch', next, 'sequence', '1', 'released', '0',
  'history', here, unpack(ARGV, 5))
redis.call('SET', epoch, next)
redis.call('SET', leader, redis.call('HGET', record, 'holder'), 'PX', lease)
redis.call('PUBLISH', leader, 'acquired')
return look('granted')
"""

# ARGV: nonce, epoch, lease ms. Sets the shown key anew: it may have been deleted, or run out by the server's clock.
_RENEW = """
if foreign or not ours() then return look('lost') end
redis.call('HSET', record, 'sequence', string.format('%.0f', tonumber(r.sequence) + 1), 'history', here)
redis.call('SET', leader, r.holder, 'PX', ARGV[3])
return look('renewed')
"""

# ARGV: nonce, epoch
_RELEASE = """
if not ours() then return look('lost') end
redis.call('HSET', record, 'released', '1', 'sequence', string.format('%.0f', tonumber(r.sequence) + 1),
  'history', here)
if shown == r.holder then redis.call('DEL', leader) end
redis.call('PUBLISH', leader, 'released')
return look('released')
"""

# Which of the steps' commands the server would refuse to this user. Changes nothing. Needs Redis 7.0; empty before.
PERMISSIONS = """
local refused = {}
if not redis.acl_check_cmd then return refused end
for _, step in ipairs({{'GET', KEYS[1]}, {'SET', KEYS[1], 'x', 'PX', '1'}, {'PTTL', KEYS[1]}, {'DEL', KEYS[2]},
  {'HSET', KEYS[2], 'x', 'x'}, {'HGET', KEYS[2], 'x'}, {'HGETALL', KEYS[2]}, {'GET', KEYS[3]}, {'SET', KEYS[3], '1'},
  {'PUBLISH', KEYS[1], 'x'}, {'INFO', 'replication'}}) do
  if not redis.acl_check_cmd(unpack(step)) then refused[#refused + 1] = step[1] .. ' ' .. step[2] end
end
return refused
"""


OBSERVE = _COMMON + _OBSERVE
ACQUIRE = _COMMON + _ACQUIRE
RENEW = _COMMON + _RENEW
RELEASE = _COMMON + _RELEASE


def keys(agent_id: str) -> tuple[str, str, str]:
    leader = f"streamspace:agent:leader:{agent_id}"
    return leader, f"{{{leader}}}:record", f"{{{leader}}}:epoch"


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's outcome, and what the store holds after it."""

    answer: str
    history: str
    shown: str | None
    ttl_ms: int
    fields: dict[str, str]
    epoch: int

    @classmethod
    def of(cls, reply: Sequence[object]) -> "StepResult":
        """Read a script's answer. Raises ValueError for any other."""
        match reply:
            case [str(answer), str(history), str() | None as shown, int(ttl), list(flat), str() | None as last]:
                texts = [str(item) for item in flat]
                fields = dict(zip(texts[::2], texts[1::2], strict=True))
                return cls(answer, history, shown, ttl, fields, int(last) if last and last.isdecimal() else 0)
        raise ValueError("the answer is not that of an election script")

    @property
    def revision(self) -> str:
        """What ACQUIRE compares. It holds the replication id, so that a change of the store counts as a change."""
        names = ("nonce", "epoch", "sequence") if self.fields else ()
        return " ".join([self.history, *(self.fields.get(name, "") for name in names)])
