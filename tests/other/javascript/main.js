// A client as a program. First line: its settings as JSON; then each line is a message of the server in hexadecimal.
// The answer is a line with the frame, or `refused` and the reason.
import { createInterface } from "node:readline";
import { Client } from "./client.js";
import { Refused, unhex, hex } from "./primitives.js";

let client = null;
for await (const line of createInterface({ input: process.stdin })) {
  try {
    if (client === null) {
      const given = JSON.parse(line);
      client = new Client({
        identity: unhex(given.identity),
        roster: given.roster.map(([name, key]) => [name, unhex(key)]),
        plan: given.plan,
        values: (round) => ({ values: given.vectors[round], dataSet: "rows" }),
        policy: given.policy,
      });
      console.log("ready");
    } else if (line === "sums") {
      const sums = [...client.verified].map(([round, one]) => [round, { values: one.values, survivors: one.survivors, digest: hex(one.digest) }]);
      console.log(JSON.stringify(Object.fromEntries(sums)));
    } else {
      console.log(hex(client.receive(unhex(line))));
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.log(`refused: ${error.message}`);
  }
}
