// A client of masked sums: docs/protocol.md §2.1, §5, §7. Bytes in, bytes out.
import { randomBytes } from "node:crypto";
import * as p from "./primitives.js";
import * as d from "./derivations.js";
import { KINDS, LABELS, frame, opened, read, root, write } from "./messages.js";
import { need, Refused } from "./primitives.js";

/** Fresh random values; tests give what the vectors say instead. */
export const random = {
  seed: () => Uint8Array.from(randomBytes(32)),
  coefficients(_what, _round, count) {
    return Array.from({ length: count }, () => {
      for (;;) {
        const value = p.fromBig(randomBytes(33)) % 2n ** 257n;
        if (value < p.P256) return value;
      }
    });
  },
  sealing: () => ({ x25519: Uint8Array.from(randomBytes(32)), mlKem: Uint8Array.from(randomBytes(32)) }),
};

/** What a client keeps over all sessions (§7); a program saves it before anything is sent. */
export class Ledger {
  constructor() {
    this.joined = new Set();
    this.served = new Map();
  }

  join(session) {
    need(!this.joined.has(p.hex(session)), "a session that was not joined before");
    this.joined.add(p.hex(session));
  }

  use(dataSet, session) {
    const before = this.served.get(dataSet);
    need(before === undefined || before === p.hex(session), "a data set that served no other session");
    this.served.set(dataSet, p.hex(session));
  }
}

export const POLICY = {
  profiles: ["active"], suites: ["hybrid"], verify: ["tags"], minimumHonest: 2, corrupted: 0.1, dropout: 0.2,
};

const modeOf = ({ profile, verify }) => (profile === "active" ? (verify === "tags" ? 0 : 1) : 2);
/** §2.1: state, legal message, next state by mode (active with tags, active without, semi-honest). */
const STATES = [
  ["start", "parameters", ["advertised", "advertised", "advertised"]],
  ["advertised", "directory", ["shared", "shared", "shared"]],
  ["shared", "delivery", ["ready", "ready", "ready"]],
  ["ready", "sum request", ["requested", "requested", "requested"]],
  ["requested", "sum request", ["requested", "requested", "requested"]],
  ["uploaded", "sum request", ["requested", "requested", "requested"]],
  ["uploaded", "survivors", ["consented", "consented", "ready"]],
  ["consented", "sum request", ["requested", "requested", "requested"]],
  ["consented", "consents", ["revealed", "ready", "ready"]],
  ["revealed", "sum request", ["requested", "requested", "requested"]],
  ["revealed", "answer", ["ready", "ready", "ready"]],
];

export class Client {
  /**
   * identity: 32 bytes; roster: [name, key] of all; plan: {statistic, length, bound, fraction_bits, survivors?,
   * same_survivors?, trusts_server?}; values(round): the vector of doubles and the name of its data set.
   */
  constructor({ identity, roster, plan, values, policy = {}, ledger = new Ledger(), draw = random }) {
    Object.assign(this, { identity, roster, plan, values, ledger, draw, policy: { ...POLICY, ...policy } });
    const own = p.publicKey(identity);
    this.index = roster.findIndex(([, key]) => p.same(key, own));
    need(this.index >= 0, "a roster with this client in it");
    this.rosterDigest = d.rosterDigest(roster);
    this.expected = plan.map((one) => ({ ...one, ...p.fit(one.bound, roster.length, one.fraction_bits) }));
    this.state = "start";
    this.verified = new Map();
  }

  /** The frame that answers a message of the server. A refused message changes nothing. */
  receive(data) {
    const kinds = this.state === "start" ? KINDS.parameters : KINDS["masked, from the server"];
    const message = read(data, kinds);
    if (this.state !== "start") need(p.same(message.transcript, this.transcript), "the session's transcript");
    const legal = STATES.find(([state, name]) => state === this.state && name === message.message);
    need(legal, `no '${message.message}' in state ${this.state}`);
    const before = { ...this };
    try {
      this.question = data;
      this.next = legal[2][modeOf(this.parameters ?? message)];
      const answer = STEPS[message.message].call(this, message);
      this.state = this.next;
      return frame(this.identity, this.transcript, data, this.index, write(answer));
    } catch (error) {
      if (error instanceof Refused && this.state !== "requested") Object.assign(this, before);
      throw error;
    }
  }

  checkGroup(what, group, round) {
    const colluders = Math.ceil(this.policy.corrupted * this.roster.length);
    const least = Math.max(this.policy.minimumHonest + colluders, this.plan[round].survivors ?? 0);
    need(group.length >= least, `at least ${least} ${what}`);
    const near = group.filter((one) => this.neighbours.includes(one)).length + 1;
    need(near >= this.parameters.threshold, `at least ${this.parameters.threshold} ${what} among the neighbours`);
  }

  view() {
    return d.consentParts(this.transcript, this.directory, this.round, this.participants, this.survivors);
  }

  checkPolicy(q) {
    const { policy, roster } = this;
    const colluders = Math.ceil(policy.corrupted * roster.length);
    const n = q.cohort.length;
    need(policy.profiles.includes(q.profile), `profile ${policy.profiles}`);
    need(q.profile !== "active" || policy.verify.includes(q.verify), `verify ${policy.verify}`);
    need(policy.suites.includes(q.suite), `suite ${policy.suites}`);
    need(n >= policy.minimumHonest + colluders, "a larger cohort");
    need(q.threshold >= d.leastThreshold(q.profile, n, q.degree), "a higher threshold");
    const gone = Math.ceil(policy.dropout * n);
    const safe = d.exposureBearable(q.profile, n, q.degree, q.threshold, colluders, gone, q.rounds.length);
    need(safe, "a failure probability of at most 2^-40");
    need(q.profile !== "active" || !this.plan.some((one) => one.trusts_server), "a plan that believes no report of the server");
  }

  reveal() {
    const shares = [[this.index, this.current.ownShare]];
    for (const dealer of this.participants.filter((one) => this.neighbours.includes(one)))
      shares.push([dealer, this.current.shares.get(dealer)[this.survivors.includes(dealer) ? 1 : 0]]);
    this.current = null;
    return { message: "reveal", round: this.round, shares: shares.sort((a, b) => a[0] - b[0]) };
  }
}

const STEPS = {
  parameters(q) {
    need(p.same(q.roster, this.rosterDigest), "the digest of this client's roster");
    need(q.cohort.includes(this.index) && q.cohort.at(-1) < this.roster.length, "a cohort of members, this client among them");
    this.checkPolicy(q);
    need(q.rounds.length === this.expected.length, "the sums of the plan");
    q.rounds.forEach((one, at) => {
      const plan = this.expected[at];
      const equal =
        one.statistic === plan.statistic && one.length === plan.length && one.fraction_bits === plan.fractionBits &&
        BigInt(one.magnitude) === plan.magnitude && one.width === plan.width && one.modulus === 0 && one.noise.length === 0;
      need(equal, `the sum '${plan.statistic}' as planned`);
    });
    this.ledger.join(q.session);
    this.parameters = q;
    this.transcript = d.transcriptOf(this.question);
    this.invitation = this.question;
    this.neighbours = d.neighbours(q, this.index);
    this.tags = q.verify === "tags";
    this.rounds = q.rounds.map((_, round) => {
      const maskSeed = this.draw.seed("mask_seed", round);
      const selfSeed = this.draw.seed("self_seed", round);
      return { maskSeed, selfSeed, key: p.keypair(q.suite, maskSeed, LABELS.MASK_KEY), shares: new Map(), pairs: new Map() };
    });
    this.channel = p.keypair(q.suite, this.draw.seed("channel_seed"), LABELS.CHANNEL_KEY);
    this.tagSecrets = new Map(this.tags ? [[this.index, this.draw.seed("tag_secret")]] : []);
    this.advertised = {
      message: "advertise",
      channel_key: this.channel.public,
      mask_keys: this.rounds.map((one) => one.key.public),
      tag_commitment: this.tags ? d.tagCommitment(this.transcript, this.index, this.tagSecrets.get(this.index)) : new Uint8Array(),
    };
    return this.advertised;
  },

  directory({ frames }) {
    const { suite, verify, threshold, rounds } = this.parameters;
    const others = new Map();
    let own = false;
    for (const [sender, framed] of frames) {
      need(sender === this.index || this.neighbours.includes(sender), "keys of neighbours only");
      const data = opened(framed, this.roster[sender][1], this.transcript, this.invitation, sender);
      const one = d.readAdvertise(data);
      d.checkAdvertise(one, suite, rounds.length, verify, { key: p.KEY_BYTES[suite] });
      if (sender === this.index) own = p.same(data, write(this.advertised));
      else others.set(sender, one);
    }
    need(own, "this client's own keys back");
    need(frames.length >= threshold, `keys of at least ${threshold}`);
    const points = [...others.keys(), this.index].map((one) => one + 1);
    const dealt = this.rounds.map((one, round) =>
      ["mask", "self"].map((what) => {
        const coefficients = this.draw.coefficients(what, round, threshold - 1);
        return p.split(one[`${what}Seed`], threshold, points, coefficients);
      }),
    );
    const pairs = this.rounds.map(() => new Map());
    const t = this.transcript;
    const bundles = [...others].map(([holder, keys]) => {
      const held = dealt.map((shares) => shares.map((one) => one.get(holder + 1)));
      const sealed = d.sharesInfo(t, this.index, holder);
      const plain = p.join(...held.flat(), this.tagSecrets.get(this.index) ?? []);
      const pairSecrets = [];
      if (this.index < holder)
        this.rounds.forEach((one, round) => {
          const secret = d.pairSecret(one.maskSeed, t, round, holder);
          pairs[round].set(holder, secret);
          held[round].push(secret);
          const info = d.pairInfo(t, round, this.index, holder);
          pairSecrets.push(p.seal(suite, keys.mask_keys[round], secret, info, this.draw.sealing(info)));
        });
      return d.signBundle(this.identity, t, this.index, {
        message: "bundle",
        recipient: holder,
        sealed: p.seal(suite, keys.channel_key, plain, sealed, this.draw.sealing(sealed)),
        pair_secrets: pairSecrets,
        commitments: held.map((secrets, round) =>
          secrets.map((one, kind) => d.commitment(t, round, this.index, holder, kind, one)),
        ),
        signature: null,
      });
    });
    this.rounds.forEach((one, round) => {
      one.ownShare = dealt[round][1].get(this.index + 1);
      pairs[round].forEach((secret, holder) => one.pairs.set(holder, secret));
    });
    this.directory = d.directoryDigest(frames);
    this.others = others;
    return {
      message: "shares",
      own_commitments: this.rounds.map((one, round) => d.ownCommitments(t, round, this.index, one.selfSeed, one.ownShare)),
      bundles,
    };
  },

  delivery({ bundles }) {
    for (const [dealer] of bundles) need(this.others.has(dealer), "bundles of neighbours in the directory");
    const complaints = [];
    for (const [dealer, bundle] of bundles) {
      try {
        accept.call(this, dealer, bundle);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        complaints.push(dealer);
      }
    }
    this.dealers = bundles.map(([dealer]) => dealer).filter((one) => !complaints.includes(one));
    this.channel = null;
    return { message: "confirm", complaints };
  },

  "sum request"({ round, participants }) {
    need(round < this.rounds.length && round > (this.uploaded ?? -1), "a round that is still to come");
    need(participants.includes(this.index) && participants.every((one) => this.parameters.cohort.includes(one)), "participants of the cohort, this client among them");
    const near = participants.filter((one) => this.neighbours.includes(one));
    need(near.every((one) => this.dealers.includes(one)), "neighbours whose shares this client holds");
    this.checkGroup("participants", participants, round);
    Object.assign(this, { round, participants, current: null, tagKey: null, state: "requested" });
    const { values, dataSet } = this.values(round);
    const spec = this.parameters.rounds[round];
    need(values.length === spec.length, `${spec.length} values`);
    const units = values.map((one) => p.encode(one, spec.fraction_bits, spec.magnitude));
    this.ledger.use(dataSet, this.parameters.session);
    const keys = this.rounds[round];
    this.current = keys;
    this.uploaded = round;
    for (let past = 0; past <= round; past++) this.rounds[past] = null;
    const [t, here] = [this.transcript, this.index];
    const size = p.wordBytes(spec.width);
    const key = (other) => d.pairMaskKey(keys.pairs.get(other), t, round, here, other);
    const plus = [d.selfMaskKey(keys.selfSeed, t, round, here), ...near.filter((one) => one > here).map(key)];
    const payload = p.pack(p.masked(units, plus, near.filter((one) => one < here).map(key), size), spec.width);
    let proof = new Uint8Array();
    if (this.tags) {
      const secrets = participants.map((one) => this.tagSecrets.get(one));
      this.tagKey = new p.TagKey(d.tagKey(secrets, t, this.directory, round, participants), participants.length);
      let sum = this.tagKey.tag(units, spec.magnitude, size, participants.indexOf(here)) + d.selfTag(keys.selfSeed, t, round, here);
      for (const other of near) sum += (here < other ? 1n : -1n) * d.pairTag(keys.pairs.get(other), t, round, here, other);
      proof = p.tagBytes(sum);
    }
    const upload = { message: "upload", round, payload, proof };
    this.uploadRoot = root(write(upload));
    this.next = "uploaded";
    return upload;
  },

  survivors({ round, survivors }) {
    need(round === this.round, `round ${this.round}`);
    need(survivors.every((one) => this.participants.includes(one)), "survivors out of the participants");
    need(survivors.includes(this.index), "this client among the survivors");
    this.checkGroup("survivors", survivors, round);
    if (this.plan[round].same_survivors) {
      need(!this.related || String(this.related) === String(survivors), "the survivors of the related sums before");
      this.related = survivors;
    }
    this.survivors = survivors;
    if (this.parameters.profile === "semi-honest") return this.reveal();
    const vote = d.signVote(this.identity, this.view(), {
      message: "vote",
      upload: this.uploadRoot,
      accepted: d.acceptedSums([...this.verified].map(([at, one]) => [at, one.digest]), this.index),
      log: new Uint8Array(),
      signature: null,
    });
    return { message: "consent", round, vote };
  },

  consents({ round, votes }) {
    need(round === this.round, `round ${this.round}`);
    let valid = 0;
    for (const [sender, vote] of votes) {
      need(this.survivors.includes(sender), "consents of survivors");
      if (agrees.call(this, sender, vote) && ++valid === this.parameters.threshold) return this.reveal();
    }
    throw new Refused(`expected ${this.parameters.threshold} consents to this client's view, got ${valid}`);
  },

  answer({ round, payload, tag }) {
    need(round === this.round, `round ${this.round}`);
    const spec = this.parameters.rounds[round];
    const key = this.tagKey;
    this.tagKey = null;
    const places = this.survivors.map((one) => this.participants.indexOf(one));
    let sum = null;
    try {
      sum = p.unpack(payload, spec.length, spec.width);
      need(key.fits(sum, p.tagNumber(tag), spec.magnitude, p.wordBytes(spec.width), places), "a tag that fits");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      Object.assign(this, { next: "rejected", rounds: [], current: null, tagSecrets: new Map(), channel: null });
      return { message: "verdict", round, accepted: new Uint8Array(), log: new Uint8Array() };
    }
    const digest = d.sumDigest(this.question, this.survivors);
    this.verified.set(round, { digest, survivors: this.survivors, sum, values: sum.map((one) => Number(one) / 2 ** spec.fraction_bits) });
    return { message: "verdict", round, accepted: d.acceptedDigest(digest, this.index), log: new Uint8Array() };
  },
};

/** Keep what a bundle holds, or refuse it and keep nothing. */
function accept(dealer, bundle) {
  const { suite, verify, rounds } = this.parameters;
  const t = this.transcript;
  need(bundle.recipient === this.index, "a bundle for this client");
  d.checkBundle(bundle, rounds.length, dealer, verify, p.ENCAPSULATION_BYTES[suite] + 16);
  d.verifyBundle(this.roster[dealer][1], t, dealer, bundle);
  const plain = p.open(this.channel, bundle.sealed, d.sharesInfo(t, dealer, this.index));
  const kept = this.rounds.map((one, round) => {
    const held = [plain.slice(66 * round, 66 * round + 33), plain.slice(66 * round + 33, 66 * round + 66)];
    if (bundle.pair_secrets.length) held.push(p.open(one.key, bundle.pair_secrets[round], d.pairInfo(t, round, dealer, this.index)));
    held.forEach((secret, kind) =>
      need(p.same(bundle.commitments[round][kind], d.commitment(t, round, dealer, this.index, kind, secret)), "what was committed to"),
    );
    return held;
  });
  if (this.tags) {
    const secret = plain.slice(-32);
    need(p.same(d.tagCommitment(t, dealer, secret), this.others.get(dealer).tag_commitment), "the tag secret that was committed to");
    this.tagSecrets.set(dealer, secret);
  }
  kept.forEach(([mask, self, pair], round) => {
    this.rounds[round].shares.set(dealer, [mask, self]);
    if (pair) this.rounds[round].pairs.set(dealer, pair);
  });
}

/** Whether another client consents to what this one saw, and accepted the same sums as far as this one knows them. */
function agrees(sender, vote) {
  try {
    d.verifyVote(this.roster[sender][1], this.view(), vote);
  } catch (error) {
    if (error instanceof Refused) return false;
    throw error;
  }
  const rounds = d.acceptedRounds(vote.accepted);
  if (!rounds.every((one) => this.verified.has(one))) return true;
  return p.same(vote.accepted, d.acceptedSums(rounds.map((one) => [one, this.verified.get(one).digest]), sender));
}
