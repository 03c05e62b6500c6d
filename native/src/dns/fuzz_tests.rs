//! Whatever bytes come, from a container or from a server: no panic, a reply within its limit, bounded work.
//!
//! Seeded, so that a failure comes again.

use super::answer::answer;
use super::message::tests::query;
use super::message::{reply_bad, reply_code, word, Query, Record, A, AAAA, HEADER, PTR, SERVER_FAILURE};
use super::name::Name;
use super::response::tests::{record, response, soa};
use super::response::{fit, Response};
use super::table::tests::{membership, sandbox};
use super::table::Table;

const ROUNDS: usize = 60_000;

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() % limit.max(1)
    }

    /// A few bytes changed, cut off, repeated or put in.
    fn spoil(&mut self, message: &mut Vec<u8>) {
        for _ in 0..self.below(6) {
            let at = self.below(message.len());
            match self.below(5) {
                0 => message.truncate(at),
                1 => message.extend_from_within(at..),
                // Pointers and lengths are what a parser trips over.
                2 => message.splice(at..at, [0xc0, self.below(message.len() + 2) as u8]).for_each(drop),
                _ if message.is_empty() => message.push(self.next() as u8),
                _ => message[at] = self.next() as u8,
            }
        }
    }
}

fn samples(random: &mut Random) -> Vec<u8> {
    let names = ["web", "web.shop", "2.0.0.10.in-addr.arpa", "example.org", "", &"x.".repeat(120)];
    let name = names[random.below(names.len())];
    let kind = [A, AAAA, PTR, 255][random.below(4)];
    let edns = [None, Some((random.next() as u16, &b"\0\x0a\0\x02hi"[..])), Some((1232, &b""[..]))];
    query(random.next() as u16, name, kind, edns[random.below(3)])
}

#[test]
fn no_message_of_a_container_is_too_strange() {
    let mut random = Random(0x5eed);
    let mut table = Table::default();
    let number = table.set(sandbox("1", vec![membership("shop", &["web"], &["10.0.0.2", "fd00::2"])]));
    let mut out = Vec::new();
    let mut understood = 0;
    for round in 0..ROUNDS {
        let mut message = if round % 10 == 0 {
            (0..random.below(80)).map(|_| random.next() as u8).collect()
        } else {
            samples(&mut random)
        };
        random.spoil(&mut message);
        match Query::parse(&message) {
            Err(bad) => {
                if reply_bad(&message, &bad, &mut out) {
                    assert!(out.len() <= HEADER + 11 && out[..2] == message[..2], "{message:02x?}");
                }
            }
            Ok(query) => {
                understood += 1;
                let limit = query.udp_limit();
                if !answer(&table, number, &query, limit, round, &mut out) {
                    reply_code(&query, SERVER_FAILURE, &mut out);
                }
                assert!(out.len() <= limit && word(&out, 0) == Some(query.id), "{message:02x?}");
                assert_eq!(&out[HEADER..HEADER + query.question.len()], query.question);
            }
        }
    }
    assert!(understood > ROUNDS / 4, "{understood} were queries still");
}

#[test]
fn no_message_of_a_server_is_too_strange() {
    let mut random = Random(0xf00d);
    let asked = query(7, "www.example.org", A, None);
    let client = Query::parse(&asked).expect("a good query");
    let mut out = Vec::new();
    let mut believed = 0;
    for _ in 0..ROUNDS {
        let answers: Vec<_> = (0..random.below(4))
            .map(|_| record([A, 5, 41][random.below(3)], random.next() as u32, &[3, 1, 4, 1]))
            .collect();
        let mut message = response(&asked, random.below(6) as u8, &answers, &[soa(300, 60)]);
        random.spoil(&mut message);
        if let Some(response) = Response::read(&message, 7, client.question) {
            believed += 1;
            assert!(response.ttls.iter().all(|at| usize::from(*at) + 4 <= message.len()), "{message:02x?}");
            for (limit, elapsed) in [(512, 0), (65_535, 17), (64, 17)] {
                fit(&message, &client, limit, &response.ttls, elapsed, &mut out);
                assert!(out.len() <= limit, "{message:02x?}");
                assert_eq!(
                    (word(&out, 0), &out[HEADER..HEADER + client.question.len()]),
                    (Some(7), client.question)
                );
            }
        }
    }
    assert!(believed > ROUNDS / 4, "{believed} were responses still");
}

#[test]
fn names_and_records_anywhere_in_any_bytes() {
    let mut random = Random(0xbeef);
    for _ in 0..ROUNDS / 10 {
        // Many pointers, small lengths: as deep as it gets.
        let message: Vec<u8> = (0..random.below(300))
            .map(|_| [0xc0, 0xc1, 1, 2, 0, random.next() as u8][random.below(6)])
            .collect();
        for at in 0..message.len() + 2 {
            let read = Name::read(&message, at);
            let skipped = Name::skip(&message, at);
            if let Some((name, next)) = read {
                assert_eq!(skipped, Some(next));
                assert!(name.as_bytes().len() < 255);
                assert!(name.cuts().all(|(host, rest)| host.len() + rest.len() == name.as_bytes().len()));
            }
            if let Some(record) = Record::read(&message, at) {
                assert!(record.next <= message.len() && record.data_at <= record.next);
            }
        }
    }
}
