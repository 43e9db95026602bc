// Canonical MessagePack, the messages of a masked session, and frames: docs/protocol.md §3 and §5.
import { digest, join, need, same, sign, text, u64, verify } from "./primitives.js";

export const VERSION = "secure-afl/2";

// ---- §3.1: encoding; decoding is strict because the result must encode to the same bytes ----

function head(count, small, forms) {
  if (small !== null && count < small[1]) return [small[0] | count];
  const [tag, size] = forms.find(([, size]) => count < 2 ** (8 * size));
  return [tag, ...u64(count).slice(8 - size)];
}

export function encoded(value) {
  if (value instanceof Uint8Array) return join(head(value.length, null, [[0xc4, 1], [0xc5, 2], [0xc6, 4]]), value);
  if (typeof value === "string") {
    const bytes = text(value);
    return join(head(bytes.length, [0xa0, 32], [[0xd9, 1], [0xda, 2], [0xdb, 4]]), bytes);
  }
  if (Array.isArray(value))
    return join(head(value.length, [0x90, 16], [[0xdc, 2], [0xdd, 4]]), ...value.map(encoded));
  const number = BigInt(value);
  if (number >= 0n) {
    if (number < 128n) return Uint8Array.of(Number(number));
    const size = [1, 2, 4, 8].find((one) => number < 2n ** BigInt(8 * one));
    return join([{ 1: 0xcc, 2: 0xcd, 4: 0xce, 8: 0xcf }[size]], u64(number).slice(8 - size));
  }
  if (number >= -32n) return Uint8Array.of(Number(256n + number));
  const size = [1, 2, 4, 8].find((one) => number >= -(2n ** BigInt(8 * one - 1)));
  const bytes = u64(BigInt.asUintN(64, number)).slice(8 - size);
  return join([{ 1: 0xd0, 2: 0xd1, 4: 0xd2, 8: 0xd3 }[size]], bytes);
}

function decoded(data) {
  let at = 0;
  const view = Buffer.from(data);
  const take = (size) => {
    need(at + size <= view.length, "more bytes");
    return view.subarray((at += size) - size, at);
  };
  const unsigned = (size) => take(size).reduce((value, byte) => value * 256n + BigInt(byte), 0n);
  const plain = (number) => (BigInt(Number(number)) === number && Number.isSafeInteger(Number(number)) ? Number(number) : number);
  const bytes = (size) => Uint8Array.from(take(size));
  const utf8 = (size) => {
    const raw = take(size);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw);
    } catch {
      need(false, "UTF-8");
    }
  };
  const list = (count, depth) => {
    need(count <= view.length - at, "as many entries as announced");
    return Array.from({ length: count }, () => one(depth + 1));
  };
  function one(depth) {
    need(depth < 8, "less nesting");
    const tag = take(1)[0];
    if (tag < 0x80) return tag;
    if (tag >= 0xe0) return tag - 256;
    if (tag >= 0xa0 && tag < 0xc0) return utf8(tag & 31);
    if (tag >= 0x90 && tag < 0xa0) return list(tag & 15, depth);
    if (tag >= 0xcc && tag <= 0xcf) return plain(unsigned(1 << (tag - 0xcc)));
    if (tag >= 0xd0 && tag <= 0xd3) {
      const size = 1 << (tag - 0xd0);
      return plain(BigInt.asIntN(8 * size, unsigned(size)));
    }
    const size = { 0xc4: 1, 0xc5: 2, 0xc6: 4, 0xd9: 1, 0xda: 2, 0xdb: 4, 0xdc: 2, 0xdd: 4 }[tag];
    need(size, "a type of the protocol");
    const count = Number(unsigned(size));
    return tag < 0xd9 ? bytes(count) : tag < 0xdc ? utf8(count) : list(count, depth);
  }
  const value = one(0);
  need(at === view.length && same(encoded(value), data), "the canonical form");
  return value;
}

// ---- types of fields: each takes a value and gives it as it is meant ----

const isInteger = (value) => typeof value === "number" || typeof value === "bigint";
const natural = (value) => (need(isInteger(value) && value >= 0, "an integer from 0"), value);
const integer = (value) => (need(isInteger(value), "an integer"), value);
const bytes = (...lengths) => (value) => {
  need(value instanceof Uint8Array, "bytes");
  need(!lengths.length || lengths.includes(value.length), `bytes of length ${lengths}`);
  return value;
};
const choice = (...words) => (value) => (need(words.includes(value), words.join(" or ")), value);
const many = (kind) => (value) => (need(Array.isArray(value), "an array"), value.map((one) => kind(one)));
const tuple = (...kinds) => (value) => {
  need(Array.isArray(value) && value.length === kinds.length, `${kinds.length} entries`);
  return kinds.map((kind, at) => kind(value[at]));
};
const rising = (kind, key = (one) => one) => (value) => {
  const entries = many(kind)(value);
  entries.forEach((one, at) => need(at === 0 || key(entries[at - 1]) < key(one), "increasing entries"));
  return entries;
};
const byIndex = (kind) => rising(tuple(natural, kind), (pair) => pair[0]);
const indices = rising(natural);

/** 1 to 64 printable code points: the space, and what is in no category Z or C. */
export function printable(value) {
  need(typeof value === "string" && /^(?: |[^\p{Z}\p{C}]){1,64}$/u.test(value), "1 to 64 printable code points");
  return value;
}

const message = (name, fields, check = () => {}) => {
  const kind = (value) => {
    const names = Object.keys(fields);
    need(Array.isArray(value) && value.length === names.length + 1 && value[0] === name, `a '${name}'`);
    const read = { message: name };
    names.forEach((field, at) => (read[field] = fields[field](value[at + 1])));
    check(read);
    return read;
  };
  return Object.assign(kind, { fields });
};

const ROUND = message(
  "round",
  { statistic: printable, length: natural, fraction_bits: integer, magnitude: natural, width: natural, modulus: natural, noise: bytes(0, 32) },
  (one) => {
    need(one.length >= 1 && one.magnitude >= 1, "a value and a magnitude");
    need(one.fraction_bits >= -512 && one.fraction_bits <= 512, "-512 to 512 fraction bits");
    need(one.width >= 4 && one.width <= 8, "a width of 4 to 8");
    need(one.modulus == 0 || (one.modulus > 2 ** 32 && one.modulus < 2n ** 63n), "no modulus, or one of 33 to 63 bits");
  },
);

const PARAMETERS = message(
  "parameters",
  {
    version: choice(VERSION), session: bytes(32), profile: choice("active", "semi-honest"), verify: choice("tags", "replay", "none"),
    suite: choice("hybrid", "x25519"), roster: bytes(32), cohort: indices, degree: natural, threshold: natural, rounds: many(ROUND),
  },
  ({ profile, verify, cohort, degree, threshold, rounds }) => {
    const n = cohort.length;
    need(n >= 2, "two clients");
    need(profile === "active" || verify === "none", "no checks under the semi-honest profile");
    const sparse = profile === "semi-honest" && degree > 0 && degree < n - 1 && BigInt(degree) % 2n === 0n;
    need(degree === n - 1 || sparse, "n - 1 neighbours, or an even number");
    need(threshold >= 1 && threshold <= degree + 1, "a threshold of 1 to degree + 1");
    need(rounds.length >= 1, "a round");
    need(new Set(rounds.map((one) => one.statistic)).size === rounds.length, "each sum once");
    for (const one of rounds) {
      const sum = BigInt(n) * BigInt(one.magnitude);
      need(sum < 2n ** (8n * BigInt(one.width) - 1n), "a sum that fits its words");
      need(one.modulus === rounds[0].modulus, "the same modulus in all rounds");
      need(one.modulus == 0 || sum <= BigInt(one.modulus) / 2n, "a sum within half the modulus");
      const uploads = BigInt(n) * BigInt(one.length) * BigInt(one.width);
      need(verify !== "replay" || (one.modulus == 0 && uploads <= 2n ** 29n), "uploads that can be replayed");
    }
  },
);

const BUNDLE = message("bundle", {
  recipient: natural, sealed: bytes(), pair_secrets: many(bytes()), commitments: many(many(bytes())), signature: bytes(),
});
const accepted = (value) => {
  const size = bytes()(value).length;
  need(size === 0 || (size >= 33 && size <= 1056 && value[size - 1] !== 0), "nothing, or a digest and bits of rounds");
  return value;
};
export const VOTE = message("vote", { upload: bytes(32), accepted, log: bytes(0, 32), signature: bytes(64) });

const session = { transcript: bytes(32) };
const EVIDENCE = message(
  "evidence",
  {
    ...session, round: natural, directory: bytes(32), participants: indices, votes: byIndex(VOTE),
    uploads: byIndex(bytes()), seeds: byIndex(bytes(32)), secrets: byIndex(many(bytes(32))),
  },
  ({ participants, uploads, seeds, secrets }) => {
    const [survivors, seeded, dropped] = [uploads, seeds, secrets].map((one) => one.map(([who]) => who));
    need(String(seeded) === String(survivors), "a seed of each survivor");
    const both = [...survivors, ...dropped].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    need(String(both) === String(participants), "survivors and dropouts that are the participants");
    need(secrets.every(([, one]) => one.length === survivors.length), "a secret with each survivor");
  },
);
const named = (name, fields) => [name, message(name, fields)];
export const KINDS = {
  parameters: { parameters: PARAMETERS },
  bundle: { bundle: BUNDLE },
  vote: { vote: VOTE },
  "masked, from a client": Object.fromEntries([
    named("advertise", { channel_key: bytes(), mask_keys: many(bytes()), tag_commitment: bytes() }),
    named("shares", { own_commitments: many(tuple(bytes(32), bytes(32))), bundles: rising(BUNDLE, (one) => one.recipient) }),
    named("confirm", { complaints: indices }),
    named("upload", { round: natural, payload: bytes(), proof: bytes() }),
    named("consent", { round: natural, vote: VOTE }),
    named("reveal", { round: natural, shares: byIndex(bytes(33)) }),
    named("verdict", { round: natural, accepted: bytes(0, 32), log: bytes(0, 32) }),
  ]),
  "masked, from the server": Object.fromEntries([
    named("directory", { ...session, frames: byIndex(bytes()) }),
    named("delivery", { ...session, bundles: byIndex(BUNDLE) }),
    named("sum request", { ...session, round: natural, participants: indices }),
    named("survivors", { ...session, round: natural, survivors: indices }),
    named("survivor roots", { ...session, round: natural, roots: byIndex(bytes(32)) }),
    named("consents", { ...session, round: natural, votes: byIndex(VOTE) }),
    ["evidence", EVIDENCE],
    named("answer", { ...session, round: natural, payload: bytes(), tag: bytes() }),
  ]),
};

/** A message of one of the kinds. */
export function read(data, kinds) {
  const value = decoded(data);
  need(Array.isArray(value) && Object.hasOwn(kinds, value[0]), Object.keys(kinds).join(" or "));
  return kinds[value[0]](value);
}

/** The opposite of `read`, for a message as this module reads it. */
export const write = (one) => encoded(arrayOf(one));
function arrayOf(value) {
  if (Array.isArray(value)) return value.map(arrayOf);
  if (value?.message === undefined) return value;
  return Object.values(value).map(arrayOf);
}

// ---- §3.4 ----

export function root(data) {
  const parts = [];
  for (let at = 0; at < data.length || at === 0; at += 65536) parts.push(digest(LABELS.FRAME_PART, data.slice(at, at + 65536)));
  return digest(LABELS.FRAME_SIGNATURE, ...parts);
}
export const answered = (question) => digest(LABELS.ANSWERED, question);

export function frame(identity, transcript, question, index, data) {
  return join(data, sign(identity, LABELS.FRAME_SIGNATURE, transcript, answered(question), u64(index), root(data)));
}

export function opened(framed, key, transcript, question, index) {
  need(framed.length > 64, "a message and a signature");
  const data = framed.slice(0, -64);
  verify(key, framed.slice(-64), LABELS.FRAME_SIGNATURE, transcript, answered(question), u64(index), root(data));
  return data;
}

// ---- §3.3, as far as a client needs them ----

export const LABELS = {
  CHANNEL_KEY: "secure-afl/1 channel key pair",
  MASK_KEY: "secure-afl/1 mask key pair",
  PAIR_SECRET: "secure-afl/1 pair secret",
  PAIR_MASK: "secure-afl/1 pair mask",
  SELF_MASK: "secure-afl/1 self mask",
  TAG_KEY: "secure-afl/2 tag key",
  PAIR_TAG: "secure-afl/2 pair mask of a tag",
  SELF_TAG: "secure-afl/2 self mask of a tag",
  SHARES_INFO: "secure-afl/1 sealed shares",
  PAIR_INFO: "secure-afl/1 sealed pair secret",
  ROSTER: "secure-afl/1 roster",
  TRANSCRIPT: "secure-afl/1 transcript",
  DIRECTORY: "secure-afl/1 directory",
  GRAPH: "secure-afl/1 neighbour graph",
  ANSWERED: "secure-afl/1 answered message",
  COMMITMENT: "secure-afl/1 commitment",
  SELF_COMMITMENT: "secure-afl/1 self-mask commitment",
  TAG_COMMITMENT: "secure-afl/2 tag secret commitment",
  TAG_SECRETS: "secure-afl/2 tag secrets",
  OPENED: "secure-afl/2 opened sum",
  ACCEPTED: "secure-afl/2 accepted sum",
  ACCEPTED_SUMS: "secure-afl/2 all accepted sums",
  FRAME_PART: "secure-afl/2 part of a frame",
  FRAME_SIGNATURE: "secure-afl/1 signed frame",
  BUNDLE_SIGNATURE: "secure-afl/1 signed bundle",
  CONSENT_SIGNATURE: "secure-afl/1 signed consent",
};
