// What is derived, hashed and signed, and who is whose neighbour: docs/protocol.md §4, §6.
import { Keystream, checkKey, derive, digest, fromLittle, bind, join, mod, need, P130, sign, text, u64, verify } from "./primitives.js";
import { KINDS, LABELS as L, answered, printable, read, write } from "./messages.js";

export function rosterDigest(members) {
  need(members.length > 0, "a member");
  for (const at of [0, 1]) need(new Set(members.map((one) => String(one[at]))).size === members.length, "unique names and keys");
  for (const [name, key] of members) printable(name), checkKey(key);
  return digest(L.ROSTER, ...members.flatMap(([name, key]) => [text(name), key]));
}

export const transcriptOf = (invitation) => digest(L.TRANSCRIPT, invitation);
export const directoryDigest = (frames) => digest(L.DIRECTORY, ...frames.flatMap(([index, one]) => [u64(index), one]));
export const pairSecret = (seed, t, round, high) => derive(seed, L.PAIR_SECRET, [t, u64(round), u64(high)]);
const ordered = (one, other) => (one < other ? [one, other] : [other, one]).map(u64);
export const pairMaskKey = (secret, t, round, one, other) => derive(secret, L.PAIR_MASK, [t, u64(round), ...ordered(one, other)]);
export const selfMaskKey = (seed, t, round, index) => derive(seed, L.SELF_MASK, [t, u64(round), u64(index)]);
export const commitment = (t, round, dealer, holder, kind, secret) =>
  digest(L.COMMITMENT, t, u64(round), u64(dealer), u64(holder), u64(kind), secret);
export const ownCommitments = (t, round, index, seed, share) => [
  digest(L.SELF_COMMITMENT, t, u64(round), u64(index), seed),
  commitment(t, round, index, index, 1, share),
];
export const tagCommitment = (t, index, secret) => digest(L.TAG_COMMITMENT, t, u64(index), secret);
export const tagKey = (secrets, t, directory, round, participants) =>
  derive(digest(L.TAG_SECRETS, ...secrets), L.TAG_KEY, [t, directory, u64(round), join(...participants.map(u64))]);
export const pairTag = (secret, t, round, one, other) =>
  mod(fromLittle(derive(secret, L.PAIR_TAG, [t, u64(round), ...ordered(one, other)])), P130);
export const selfTag = (seed, t, round, index) => mod(fromLittle(derive(seed, L.SELF_TAG, [t, u64(round), u64(index)])), P130);
export const sharesInfo = (t, dealer, holder) => bind(L.SHARES_INFO, t, u64(dealer), u64(holder));
export const pairInfo = (t, round, dealer, holder) => bind(L.PAIR_INFO, t, u64(round), u64(dealer), u64(holder));
export const sumDigest = (answer, survivors) => digest(L.OPENED, answered(answer), join(...survivors.map(u64)));
export const acceptedDigest = (opened, index) => digest(L.ACCEPTED, opened, u64(index));

/** opened: [round, digest], increasing. */
export function acceptedSums(opened, index) {
  if (!opened.length) return new Uint8Array();
  const bits = new Uint8Array((opened.at(-1)[0] >> 3) + 1);
  for (const [round] of opened) bits[round >> 3] |= 1 << (round & 7);
  return join(digest(L.ACCEPTED_SUMS, u64(index), ...opened.flatMap(([round, one]) => [u64(round), one])), bits);
}
export const acceptedRounds = (said) =>
  [...said.slice(32)].flatMap((byte, at) => [...Array(8).keys()].filter((bit) => (byte >> bit) & 1).map((bit) => 8 * at + bit));

export const consentParts = (t, directory, round, participants, survivors, roots = []) =>
  [t, directory, u64(round), join(...participants.map(u64)), join(...survivors.map(u64)), ...(roots.length ? [join(...roots)] : [])];

const bundleParts = (t, dealer, one) => [t, u64(dealer), u64(one.recipient), one.sealed, join(...one.pair_secrets), join(...one.commitments.flat())];
export function signBundle(identity, t, dealer, one) {
  return { ...one, signature: sign(identity, L.BUNDLE_SIGNATURE, ...bundleParts(t, dealer, one)) };
}
export const verifyBundle = (key, t, dealer, one) => verify(key, one.signature, L.BUNDLE_SIGNATURE, ...bundleParts(t, dealer, one));

export function signVote(identity, view, one) {
  return { ...one, signature: sign(identity, L.CONSENT_SIGNATURE, ...view, one.upload, one.accepted, one.log) };
}
export const verifyVote = (key, view, one) =>
  verify(key, one.signature, L.CONSENT_SIGNATURE, ...view, one.upload, one.accepted, one.log);

// ---- §6 ----

export function neighbours(parameters, index) {
  const { cohort, degree } = parameters;
  need(cohort.includes(index), "a member of the cohort");
  if (degree === cohort.length - 1) return cohort.filter((one) => one !== index);
  const words = new Keystream(digest(L.GRAPH, transcriptOf(write(parameters)))).words(cohort.length);
  const circle = [...cohort.keys()].sort((a, b) => (words[a] < words[b] ? -1 : words[a] > words[b] ? 1 : a - b)).map((at) => cohort[at]);
  const here = circle.indexOf(index);
  const near = [];
  for (let step = 1; step <= degree / 2; step++)
    near.push(circle[(here + step) % circle.length], circle[(here - step + circle.length) % circle.length]);
  return near.sort((a, b) => a - b);
}

export const leastThreshold = (profile, n, degree) =>
  profile === "active" ? Math.floor((2 * n) / 3) + 1 : Math.floor((degree + 1) / 2) + 1;

function choose(n, k) {
  if (k < 0 || k > n) return 0n;
  let value = 1n;
  for (let i = 1; i <= k; i++) value = (value * BigInt(n - k + i)) / BigInt(i);
  return value;
}

/** Whether a session exposes an honest client with probability at most 2^-40; exactly. */
export function exposureBearable(profile, n, degree, t, colluders, gone, rounds) {
  if (profile === "active") return colluders < 2 * t - n;
  if (degree === n - 1) return colluders < t;
  const law = (marked, drawn, population, count) => choose(marked, count) * choose(population - marked, drawn - count);
  let among = 0n;
  for (let count = t; count <= degree; count++) among += law(colluders, degree, n - 1, count);
  const half = degree / 2;
  const surrounded = law(Math.min(colluders + gone, n), half, n, half);
  const [one, other] = [choose(n - 1, degree), choose(n, half)];
  return BigInt(n) * (among * other + BigInt(rounds) * surrounded * one) * 2n ** 40n <= one * other;
}

// ---- lengths that follow from the session (§5) ----

export function checkAdvertise(one, suite, rounds, verify, sizes) {
  need(one.mask_keys.length === rounds, "a mask key a round");
  for (const key of [one.channel_key, ...one.mask_keys]) need(key.length === sizes.key, "a key of the suite's length");
  need(one.tag_commitment.length === (verify === "tags" ? 32 : 0), "a tag commitment with tags only");
}

export function checkBundle(one, rounds, dealer, verify, overhead) {
  const paired = dealer < one.recipient;
  need(one.sealed.length === 66 * rounds + (verify === "tags" ? 32 : 0) + overhead, "sealed shares of every round");
  need(one.pair_secrets.length === (paired ? rounds : 0), "pair secrets from low to high only");
  for (const each of one.pair_secrets) need(each.length === 32 + overhead, "a sealed pair secret");
  need(one.signature.length === 64, "a signature of 64 bytes");
  need(one.commitments.length === rounds, "commitments of every round");
  for (const each of one.commitments) {
    need(each.length === (paired ? 3 : 2), "a commitment for each secret");
    for (const single of each) need(single.length === 32, "commitments of 32 bytes");
  }
}

export const readAdvertise = (data) => read(data, { advertise: KINDS["masked, from a client"].advertise });
