// Bytes, keys, sealing, sharing, masks, tags: docs/protocol.md §3 and §4.
import { ctr, gcm } from "@noble/ciphers/aes.js";
import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { expand, extract } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { sha3_256 } from "@noble/hashes/sha3.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";

export class Refused extends Error {}

export function need(condition, expected) {
  if (!condition) throw new Refused(`expected ${expected}`);
}

/** What a library throws becomes a refusal. */
export function refusing(expected, action) {
  try {
    return action();
  } catch {
    throw new Refused(`expected ${expected}`);
  }
}

const ascii = new TextEncoder();
export const text = (value) => ascii.encode(value);
export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const unhex = (digits) => Uint8Array.from(Buffer.from(digits, "hex"));
export const same = (one, other) => Buffer.compare(one, other) === 0;
export const join = (...parts) => Uint8Array.from(Buffer.concat(parts.map((one) => Uint8Array.from(one))));

/** A non-negative integer as `size` bytes, little endian. */
export function little(value, size) {
  const bytes = new Uint8Array(size);
  let rest = BigInt(value);
  for (let at = 0; at < size; at++, rest >>= 8n) bytes[at] = Number(rest & 255n);
  return bytes;
}
export const big = (value, size) => little(value, size).reverse();
export const u64 = (value) => big(value, 8);
export const fromBig = (bytes) => BigInt(`0x${hex(bytes) || "0"}`);
export const fromLittle = (bytes) => fromBig(Uint8Array.from(bytes).reverse());
export const mod = (value, p) => ((value % p) + p) % p;

// ---- §3.2 ----

export const bind = (label, ...parts) =>
  join(text(label), ...parts.flatMap((part) => [u64(part.length), part]));
export const digest = (label, ...parts) => sha256(bind(label, ...parts));

export function derive(secret, label, parts = [], length = 32) {
  need(secret.length === 32, "a secret of 32 bytes");
  return expand(sha256, extract(sha256, secret), bind(label, ...parts), length);
}

export const publicKey = (identity) => ed25519.getPublicKey(identity);
export const sign = (identity, label, ...parts) => ed25519.sign(bind(label, ...parts), identity);

export function checkKey(key) {
  const point = refusing("a canonical Ed25519 key", () => ed25519.Point.fromBytes(key));
  need(!point.isSmallOrder(), "a key that is not of small order");
}

export function verify(key, signature, label, ...parts) {
  checkKey(key);
  const valid = refusing("a signature", () =>
    ed25519.verify(signature, bind(label, ...parts), key, { zip215: false }),
  );
  need(valid, `a valid signature under '${label}'`);
}

// ---- §4.1 ----

export const KEY_BYTES = { x25519: 32, hybrid: 1216 };
export const ENCAPSULATION_BYTES = { x25519: 32, hybrid: 1120 };
const KEM = { x25519: [0x00, 0x20], hybrid: [0x64, 0x7a] };

export function keypair(suite, seed, label) {
  const material = derive(seed, label, [text(suite)], 96);
  const secret = material.slice(64);
  const own = x25519.getPublicKey(secret);
  if (suite === "x25519") return { suite, secret, public: own };
  const kem = ml_kem768.keygen(material.slice(0, 64));
  return { suite, secret, kem: kem.secretKey, public: join(kem.publicKey, own) };
}

function schedule(suite, secrets, encapsulation, recipient, info) {
  const labelled = (name, label, value, salt = new Uint8Array()) =>
    extract(sha256, join(text("HPKE-v1"), name, text(label), value), salt);
  const expanded = (key, name, label, value, size) =>
    expand(sha256, key, join(big(size, 2), text("HPKE-v1"), name, text(label), value), size);
  const none = new Uint8Array();
  const own = recipient.slice(-32);
  let shared;
  if (suite === "hybrid") {
    shared = sha3_256(join(...secrets, encapsulation.slice(-32), own, unhex("5c2e2f2f5e5c")));
  } else {
    const name = join(text("KEM"), KEM.x25519);
    const prk = labelled(name, "eae_prk", secrets[0]);
    shared = expanded(prk, name, "shared_secret", join(encapsulation, own), 32);
  }
  const name = join(text("HPKE"), KEM[suite], [0, 1, 0, 2]);
  const context = join([0], labelled(name, "psk_id_hash", none), labelled(name, "info_hash", info));
  const secret = labelled(name, "secret", none, shared);
  return gcm(expanded(secret, name, "key", context, 32), expanded(secret, name, "base_nonce", context, 12));
}

/** drawn: the ephemeral X25519 key and, for hybrid keys, ML-KEM's 32 bytes. */
export function seal(suite, recipient, plain, info, drawn) {
  need(recipient.length === KEY_BYTES[suite], `a ${suite} key`);
  return refusing("a key that can be sealed to", () => {
    const secrets = [x25519.getSharedSecret(drawn.x25519, recipient.slice(-32))];
    let encapsulation = x25519.getPublicKey(drawn.x25519);
    if (suite === "hybrid") {
      const { cipherText, sharedSecret } = ml_kem768.encapsulate(recipient.slice(0, 1184), drawn.mlKem);
      secrets.unshift(sharedSecret);
      encapsulation = join(cipherText, encapsulation);
    }
    return join(encapsulation, schedule(suite, secrets, encapsulation, recipient, info).encrypt(plain));
  });
}

export function open(pair, sealed, info) {
  const size = ENCAPSULATION_BYTES[pair.suite];
  return refusing("a sealed message that opens", () => {
    const encapsulation = sealed.slice(0, size);
    const secrets = [x25519.getSharedSecret(pair.secret, encapsulation.slice(-32))];
    if (pair.kem) secrets.unshift(ml_kem768.decapsulate(encapsulation.slice(0, 1088), pair.kem));
    return schedule(pair.suite, secrets, encapsulation, pair.public, info).decrypt(sealed.slice(size));
  });
}

// ---- §4.2 ----

export const P256 = 2n ** 256n + 297n;

/** Shares by point. coefficients: the highest power first, without the secret. */
export function split(secret, threshold, points, coefficients) {
  need(secret.length === 32, "a secret of 32 bytes");
  need(new Set(points).size === points.length && points.every((one) => one > 0 && one < P256), "distinct points");
  need(threshold >= 1 && threshold <= points.length, "a threshold of at most the number of shares");
  const polynomial = [...coefficients, fromBig(secret)];
  const at = (x) => polynomial.reduce((value, one) => (value * BigInt(x) + one) % P256, 0n);
  return new Map(points.map((point) => [point, big(at(point), 33)]));
}

// ---- §4.3 ----

/** A finite double as mantissa · 2^exponent, exactly. */
function exact(value) {
  need(Number.isFinite(value), "a finite value");
  let exponent = 0;
  while (!Number.isInteger(value)) (value *= 2), exponent--;
  return [BigInt(value), exponent];
}

function ceilScaled(bound, bits) {
  const [mantissa, exponent] = exact(bound);
  const shift = BigInt(exponent + bits);
  return shift >= 0n ? mantissa << shift : -(-mantissa >> -shift);
}

/** Fraction bits, magnitude and width of a plan's sum, for a roster of so many members. */
export function fit(bound, members, least, room = null) {
  need(bound > 0 && Number.isFinite(bound), "a positive bound");
  need(members >= 1, "a member");
  need(least >= -512 && least <= 512, "-512 to 512 fraction bits");
  const magnitude = (bits) => {
    const value = ceilScaled(bound, bits);
    return value > 1n ? value : 1n;
  };
  for (let width = 4; width <= 8; width++) {
    let most = 2n ** BigInt(8 * width - 1) - 1n;
    if (room !== null && BigInt(room) < most) most = BigInt(room);
    most /= BigInt(members);
    let bits = least;
    if (magnitude(bits) > most) continue;
    while (bits < 512 && magnitude(bits + 1) <= most) bits++;
    return { fractionBits: bits, magnitude: magnitude(bits), width };
  }
  throw new Refused("expected a bound that fits 8 bytes");
}

/** rint(x · 2^bits), ties to even. */
export function encode(value, bits, magnitude) {
  const [mantissa, exponent] = exact(value);
  const shift = BigInt(exponent + bits);
  let units = shift >= 0n ? mantissa << shift : mantissa >> -shift;
  if (shift < 0n) {
    const twice = (mantissa - (units << -shift)) * 2n;
    const unit = 1n << -shift;
    if (twice > unit || (twice === unit && units & 1n)) units += 1n;
  }
  need(units <= BigInt(magnitude) && -units <= BigInt(magnitude), "a value within the bound");
  return units;
}

// ---- §4.4 ----

export class Keystream {
  constructor(key) {
    this.key = key;
    this.at = 0;
  }

  read(size) {
    const skip = this.at % 16;
    const block = big((this.at - skip) / 16, 16);
    this.at += size;
    return ctr(this.key, block).encrypt(new Uint8Array(skip + size)).slice(skip);
  }

  words(count, size = 8) {
    const bytes = Buffer.from(this.read(count * size));
    return Array.from({ length: count }, (_, at) =>
      size === 8 ? bytes.readBigUInt64LE(8 * at) : BigInt(bytes.readUInt32LE(4 * at)),
    );
  }

  /** Words of Z_t. */
  below(count, modulus) {
    const mask = 2n ** BigInt(BigInt(modulus - 1n).toString(2).length) - 1n;
    const all = [];
    for (let left = count; left > 0; left -= 8192) {
      const chunk = this.words(Math.min(left, 8192)).map((word) => word & mask);
      for (;;) {
        const over = [...chunk.keys()].filter((at) => chunk[at] >= modulus);
        if (!over.length) break;
        this.words(over.length).forEach((word, k) => (chunk[over[k]] = word & mask));
      }
      all.push(...chunk);
    }
    return all;
  }
}

export const wordBytes = (width) => (width === 4 ? 4 : 8);

export function masked(values, plus, minus, size, modulus = 0n) {
  const keys = [...plus, ...minus].map(hex);
  need(new Set(keys).size === keys.length, "different keys");
  const ring = modulus || 2n ** BigInt(8 * size);
  const total = values.map((one) => mod(BigInt(one), ring));
  for (const [keys, sign] of [[plus, 1n], [minus, -1n]])
    for (const key of keys) {
      const stream = new Keystream(key);
      const words = modulus ? stream.below(total.length, modulus) : stream.words(total.length, size);
      words.forEach((word, at) => (total[at] = mod(total[at] + sign * word, ring)));
    }
  return total;
}

export const pack = (words, width) => join(...words.map((word) => little(BigInt.asUintN(8 * width, word), width)));

/** Two's complement integers of a payload. */
export function unpack(payload, length, width) {
  need(payload.length === length * width, `${length * width} bytes`);
  return Array.from({ length }, (_, at) =>
    BigInt.asIntN(8 * width, fromLittle(payload.slice(at * width, (at + 1) * width))),
  );
}

// ---- §4.5 ----

export const P130 = 2n ** 130n - 5n;
export const tagBytes = (value) => little(mod(value, P130), 17);

export function tagNumber(bytes) {
  need(bytes.length === 17 && fromLittle(bytes) < P130, "17 bytes below 2^130 - 5");
  return fromLittle(bytes);
}

export class TagKey {
  constructor(key, participants) {
    const stream = new Keystream(key).read(32 * (participants + 1));
    this.r = fromLittle(stream.slice(0, 16)) & 0x0ffffffc0ffffffc0ffffffc0fffffffn;
    this.pads = Array.from({ length: participants }, (_, k) =>
      mod(fromLittle(stream.slice(32 * (k + 1), 32 * (k + 2))), P130),
    );
  }

  hash(values, offset, size) {
    const bytes = join(...values.map((one) => little(BigInt(one) + offset, size)));
    let total = 0n;
    for (let at = 0; at < bytes.length; at += 16)
      total = ((total + fromLittle(bytes.slice(at, at + 16))) * this.r) % P130;
    return total;
  }

  tag(values, magnitude, size, place) {
    return mod(this.hash(values, BigInt(magnitude), size) + this.pads[place], P130);
  }

  /** places: of the survivors among the participants. */
  fits(total, tag, magnitude, size, places) {
    const most = BigInt(places.length) * BigInt(magnitude);
    if (total.some((one) => BigInt(one) > most || -BigInt(one) > most)) return false;
    const pads = places.reduce((sum, place) => sum + this.pads[place], 0n);
    return mod(tag - pads, P130) === this.hash(total, most, size);
  }
}
