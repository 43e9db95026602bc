// Runs the vectors on this implementation: `node vectors.js FOLDER LABELS`. LABELS: a JSON object of all labels (§3.3).
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join as path } from "node:path";
import Ajv from "ajv/dist/2020.js";
import * as d from "./derivations.js";
import * as p from "./primitives.js";
import { Client } from "./client.js";
import { KINDS, LABELS, answered, frame, opened, read, root, write } from "./messages.js";
import { Refused, hex, need, unhex } from "./primitives.js";

const [folder, labelFile] = process.argv.slice(2);
const labels = JSON.parse(readFileSync(labelFile, "utf8"));
for (const [name, label] of Object.entries(LABELS)) need(labels[name] === label, `label ${name}`);

// ---- notation ----

const file = (name) => JSON.parse(readFileSync(path(folder, name), "utf8"));
const integer = (value) => (typeof value === "string" ? BigInt(value.replace("-", "")) * (value[0] === "-" ? -1n : 1n) : BigInt(value));
const integers = (values) => values.map(integer);
function double(digits) {
  const [, sign, rest] = /^(-?)(.*)$/.exec(digits);
  const found = /^0x([01])\.([0-9a-f]+)p([+-]\d+)$/.exec(rest);
  const size = found ? (parseInt(found[1], 16) + parseInt(found[2], 16) / 16 ** found[2].length) * 2 ** Number(found[3]) : rest === "inf" ? Infinity : NaN;
  return sign ? -size : size;
}
const hash = (bytes) => ({ sha256: createHash("sha256").update(bytes).digest("hex"), bytes: bytes.length });

/** A result as the vectors write it. */
function shown(value) {
  if (value instanceof Uint8Array) return value.length > 256 ? hash(value) : hex(value);
  if (typeof value === "bigint")
    return value >= -(2n ** 53n) + 1n && value < 2n ** 53n ? Number(value) : (value < 0n ? "-0x" : "0x") + (value < 0n ? -value : value).toString(16);
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, one]) => [key, shown(one)]));
  if (Array.isArray(value)) return value.map(shown);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, shown(one)]));
  return value;
}
function words(values) {
  const unsigned = values.map((one) => BigInt.asUintN(64, one));
  return unsigned.length > 64 ? hash(p.join(...unsigned.map((one) => p.little(one, 8)))) : shown(unsigned);
}
const number = (value) => ({ double: value });
const equal = (ours, theirs) => {
  if (ours && typeof ours === "object" && "double" in ours) return Object.is(ours.double, double(theirs));
  if (Array.isArray(ours)) return Array.isArray(theirs) && ours.length === theirs.length && ours.every((one, at) => equal(one, theirs[at]));
  if (ours && typeof ours === "object") return Object.keys(ours).length === Object.keys(theirs).length && Object.keys(ours).every((key) => equal(ours[key], theirs[key]));
  return ours === theirs;
};

// ---- operations ----

const label = (name) => labels[name];
const all = (list) => list.map(unhex);
const code = ([bits, magnitude, summands, width]) => {
  const [m, n] = [integer(magnitude), BigInt(summands)];
  need(bits >= -512 && bits <= 512 && m >= 1n && n >= 1n && width >= 4 && width <= 8, "a code");
  need(m * n < 2n ** BigInt(8 * width - 1), "a sum that fits");
  return { bits, magnitude: m, summands: n, width };
};
const advertise = (one) => read(unhex(one), { advertise: KINDS["masked, from a client"].advertise });
const sizes = (suite) => ({ key: p.KEY_BYTES[suite] });

const OPERATIONS = {
  u64: ({ value }) => (need(integer(value) >= 0n && integer(value) < 2n ** 64n, "64 bits"), p.u64(integer(value))),
  bind: (g) => p.bind(label(g.label), ...all(g.parts)),
  digest: (g) => p.digest(label(g.label), ...all(g.parts)),
  derive: (g) => p.derive(unhex(g.secret), label(g.label), all(g.parts), g.length),
  sign: (g) => p.sign(unhex(g.private), label(g.label), ...all(g.parts)),
  verify: (g) => (p.verify(unhex(g.key), unhex(g.signature), label(g.label), ...all(g.parts)), "verified"),
  "identity key": (g) => p.publicKey(unhex(g.private)),
  answered: (g) => answered(unhex(g.question)),
  "root of": (g) => root(p.join(...Array(g.times).fill(unhex(g.part)))),
  "sign frame": (g) => hex(frame(unhex(g.private), unhex(g.transcript), unhex(g.question), integer(g.place), unhex(g.message))),
  "verify frame": (g) => opened(unhex(g.frame), unhex(g.key), unhex(g.transcript), unhex(g.question), g.place),
  "key pair": (g) => p.keypair(g.suite, unhex(g.seed), label(g.label)).public,
  "open sealed": (g) => p.open(p.keypair(g.suite, unhex(g.seed), label(g.label)), unhex(g.sealed), unhex(g.info)),
  "seal to": (g) => p.seal(g.suite, unhex(g.key), new Uint8Array(), new Uint8Array(), { x25519: new Uint8Array(32).fill(7), mlKem: new Uint8Array(32) }).length,
  split: (g) => Object.fromEntries([...p.split(unhex(g.secret), g.threshold, integers(g.points), integers(g.coefficients))].map(([at, one]) => [at, hex(one)])),
  masks: (g) => {
    const vector = Array.isArray(g.vector) ? integers(g.vector) : Array(g.vector).fill(0n);
    const [size, modulus] = [g.size ?? 8, integer(g.modulus)];
    need(modulus === 0n || (size === 8 && modulus > 1n && modulus < 2n ** 63n), "a modulus that words of 8 bytes hold");
    need(modulus === 0n || vector.every((one) => one < modulus), "values below the modulus");
    for (const key of [...g.plus, ...g.minus]) need(key.length === 64, "a key of 32 bytes");
    return words(p.masked(vector, all(g.plus), all(g.minus), size, modulus));
  },
  pack: (g) => p.pack(integers(g.values), g.width),
  unpack: (g) => words(p.unpack(unhex(g.payload), g.length, g.width).map((one) => BigInt.asUintN(8 * g.width, one))),
  signed: (g) => integers(g.values).map((one) => BigInt.asIntN(8 * g.width, one)),
  modular: (g) => integers(g.values).map((one) => p.mod(BigInt.asIntN(64, one), integer(g.modulus))),
  centred: (g) => integers(g.values).map((one) => (one > integer(g.modulus) / 2n ? one - integer(g.modulus) : one)),
  code: (g) => (code(g.fields), g.fields),
  fit: (g) => {
    const { fractionBits, magnitude, width } = p.fit(double(g.bound), g.members, g.fraction_bits, g.room === null ? null : integer(g.room));
    return [fractionBits, magnitude, g.members, width];
  },
  encode: (g) => {
    const { bits, magnitude } = code(g.code);
    return words(g.values.map((one) => p.encode(double(one), bits, magnitude)));
  },
  "encode units": (g) => {
    const { bits, magnitude } = code(g.code);
    need(g.fraction_bits <= bits, "units no finer than the code");
    return words(integers(g.units).map((one) => {
      const value = one << BigInt(bits - g.fraction_bits);
      need(value <= magnitude && -value <= magnitude, "units within the bound");
      return value;
    }));
  },
  "decode sum": (g) => {
    const { bits, magnitude, width, summands: most } = code(g.code);
    need(g.summands >= 1 && BigInt(g.summands) <= most, "as many summands as the code is for");
    return integers(g.total).map((one) => {
      const value = BigInt.asIntN(8 * width, one);
      const reach = magnitude * BigInt(g.summands);
      need(value <= reach && -value <= reach, "a sum that clients can reach");
      return number(Number(value) / 2 ** bits);
    });
  },
  tag: (g) => p.tagBytes(new p.TagKey(unhex(g.key), g.participants).tag(integers(g.vector), integer(g.magnitude), g.size, g.index)),
  "tag fits": (g) => {
    const fits = new p.TagKey(unhex(g.key), g.participants).fits(integers(g.total), p.tagNumber(unhex(g.tag)), integer(g.magnitude), g.size, g.survivors);
    need(fits, "a tag that fits");
    return "accepted";
  },
  "least threshold": (g) => d.leastThreshold(g.profile, g.n, g.degree),
  neighbours: (g) => d.neighbours(read(unhex(g.encoded), KINDS.parameters), g.place),
  "roster digest": (g) => d.rosterDigest(g.members.map(([name, key]) => [name, unhex(key)])),
  transcript: (g) => (read(unhex(g.message), KINDS.parameters), d.transcriptOf(unhex(g.message))),
  "directory digest": (g) => d.directoryDigest(read(unhex(g.message), KINDS["masked, from the server"]).frames),
  "pair secret": (g) => d.pairSecret(unhex(g.mask_seed), unhex(g.transcript), integer(g.round), g.high),
  "pair mask key": (g) => d.pairMaskKey(unhex(g.secret), unhex(g.transcript), integer(g.round), integer(g.one), integer(g.other)),
  "self mask key": (g) => d.selfMaskKey(unhex(g.seed), unhex(g.transcript), integer(g.round), integer(g.place)),
  commitment: (g) => d.commitment(unhex(g.transcript), g.round, g.dealer, g.holder, g.kind, unhex(g.secret)),
  "own commitments": (g) => d.ownCommitments(unhex(g.transcript), g.round, g.place, unhex(g.seed), unhex(g.share)),
  "consent parts": (g) => d.consentParts(unhex(g.transcript), unhex(g.directory), g.round, g.participants, g.survivors, all(g.roots)),
  "sign vote": (g) => {
    const one = { message: "vote", upload: unhex(g.upload), accepted: unhex(g.accepted), log: unhex(g.log), signature: null };
    return hex(write(d.signVote(unhex(g.private), all(g.view), one)));
  },
  "verify vote": (g) => (d.verifyVote(unhex(g.key), all(g.view), read(unhex(g.vote), KINDS.vote)), "verified"),
  "sum digest": (g) => d.sumDigest(unhex(g.answer), g.survivors),
  "accepted digest": (g) => d.acceptedDigest(unhex(g.opened), g.place),
  "accepted sums": (g) => d.acceptedSums(g.rounds.map((one, at) => [one, unhex(g.opened[at])]), g.place),
  "tag commitment": (g) => d.tagCommitment(unhex(g.transcript), g.place, unhex(g.secret)),
  "tag key": (g) => d.tagKey(all(g.secrets), unhex(g.transcript), unhex(g.directory), g.round, g.participants),
  "pair mask of a tag": (g) => p.tagBytes(d.pairTag(unhex(g.secret), unhex(g.transcript), g.round, g.one, g.other)),
  "self mask of a tag": (g) => p.tagBytes(d.selfTag(unhex(g.seed), unhex(g.transcript), g.round, g.place)),
  "shares info": (g) => d.sharesInfo(unhex(g.transcript), g.dealer, g.holder),
  "pair info": (g) => d.pairInfo(unhex(g.transcript), g.round, g.dealer, g.holder),
  "sign bundle": (g) => hex(write(d.signBundle(unhex(g.private), unhex(g.transcript), g.dealer, read(unhex(g.bundle), KINDS.bundle)))),
  "verify bundle": (g) => (d.verifyBundle(unhex(g.key), unhex(g.transcript), g.dealer, read(unhex(g.bundle), KINDS.bundle)), "verified"),
  message: (g) => (need(g.kind in KINDS, "a kind of the masked protocol"), read(unhex(g.encoded), KINDS[g.kind])),
  "advertise of": (g) => {
    const one = advertise(g.encoded);
    d.checkAdvertise(one, g.suite, g.rounds, g.verify, sizes(g.suite));
    return one;
  },
  "shares of": (g) => {
    const one = read(unhex(g.encoded), { shares: KINDS["masked, from a client"].shares });
    need(one.own_commitments.length === g.rounds, "own commitments of every round");
    for (const bundle of one.bundles) d.checkBundle(bundle, g.rounds, g.dealer, g.verify, p.ENCAPSULATION_BYTES[g.suite] + 16);
    return one;
  },
};

/** Whether a client of masked sums has to do this at all. */
function concerns(name, one) {
  if (["choice", "lattice", "encrypted-messages"].includes(name)) return false; // sums that travel encrypted
  if (one.operation === "transcript" && hex(p.text("agreement")) === one.input.message.slice(4, 22)) return false;
  return OPERATIONS[one.operation] !== undefined;
}

const wrong = [];
const count = { good: 0, bad: 0, frames: 0 };
const others = new Map();
for (const name of readdirSync(folder).filter((one) => one.endsWith(".json") && one !== "schema.json")) {
  for (const one of file(name).cases) {
    if (!concerns(name.slice(0, -5), one)) {
      others.set(`${name}: ${one.operation}`, (others.get(`${name}: ${one.operation}`) ?? 0) + 1);
      continue;
    }
    let result;
    try {
      result = shown(OPERATIONS[one.operation](one.input));
    } catch (error) {
      if (!(error instanceof Refused)) wrong.push(`${name}: ${one.name}: ${error.stack}`);
      else if (!("refused" in one)) wrong.push(`${name}: ${one.name}: ${error.message}`);
      else count.bad++;
      continue;
    }
    if ("refused" in one) wrong.push(`${name}: ${one.name}: was not refused (${one.refused})`);
    else if (!equal(result, one.output)) wrong.push(`${name}: ${one.name}: ${JSON.stringify(result)} is not ${JSON.stringify(one.output)}`);
    else count.good++;
  }
}

// ---- sessions: every frame, from the random values alone ----

for (const name of readdirSync(path(folder, "sessions"))) {
  const session = file(path("sessions", name));
  const plan = session.plan.map((one) => ({ ...one, bound: double(one.bound) }));
  const clients = new Map();
  for (const [index, secret] of Object.entries(session.clients)) {
    const sealed = new Map(secret.sealed.map((one) => [one.info, one]));
    const draw = {
      seed: (what, round) => unhex(round === undefined ? secret[what] : secret.rounds[round][what]),
      coefficients: (what, round) => secret.rounds[round][`${what}_coefficients`].map((one) => BigInt(`0x${one}`)),
      sealing: (info) => {
        const one = sealed.get(hex(info));
        return { x25519: unhex(one.x25519_private), mlKem: one.ml_kem_message && unhex(one.ml_kem_message) };
      },
    };
    clients.set(Number(index), new Client({
      identity: unhex(session.roster[index].private),
      roster: session.roster.map((one) => [one.name, unhex(one.key)]),
      plan,
      values: (round) => ({ values: secret.rounds[round].vector.map(double), dataSet: "rows" }),
      policy: { profiles: ["active", "semi-honest"], suites: ["hybrid", "x25519"], verify: ["tags", "none"], corrupted: 0, dropout: 0 },
      draw,
    }));
  }
  for (const one of session.exchanges) {
    if (one.client_frame === null) continue;
    const said = hex(clients.get(one.client).receive(unhex(one.server_message)));
    if (said !== one.client_frame) wrong.push(`${name}: ${one.phase}, client ${one.client}: another frame`);
    count.frames++;
  }
  for (const sum of session.sums)
    for (const index of sum.digest ? sum.survivors : []) {
      const ours = clients.get(index).verified.get(sum.round);
      if (ours && (hex(ours.digest) !== sum.digest || !equal(shown(ours.sum), sum.sum))) wrong.push(`${name}: sum ${sum.round}`);
    }
}

// ---- the schema ----

const valid = new Ajv({ strict: false }).compile(file("schema.json"));
const deeper = ["sessions", "encrypted"].flatMap((at) => readdirSync(path(folder, at)).map((one) => path(at, one)));
for (const name of [...readdirSync(folder), ...deeper])
  if (name.endsWith(".json") && name !== "schema.json" && !valid(file(name))) wrong.push(`${name}: ${JSON.stringify(valid.errors.slice(0, 2))}`);

console.log(JSON.stringify({ ...count, others: Object.fromEntries(others), wrong: wrong.slice(0, 40), failures: wrong.length }));
process.exit(wrong.length ? 1 : 0);
