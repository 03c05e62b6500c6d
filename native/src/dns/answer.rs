//! Which question is answered from the table, and how.
//!
//! | question       | of a name that the networks know         | of any other name |
//! |----------------|------------------------------------------|-------------------|
//! | A, AAAA        | its addresses, perhaps none, in any order | the servers'     |
//! | MX             | none: mail goes to the name itself       | the servers'      |
//! | PTR            | the container's name on the network      | the servers'      |
//! | anything else  | the servers'                             | the servers'      |

use std::net::IpAddr;

use super::message::{Query, Reply, A, AAAA, INTERNET, MX, NO_ERROR, PTR};
use super::table::Table;

/// Docker's, in seconds.
const TTL: u32 = 600;

/// Write the answer for a container into `out`, at most `limit` bytes; false where the table has none.
/// `turn` changes from call to call: who shares a name is named first in turn.
pub fn answer(
    table: &Table,
    number: u32,
    query: &Query<'_>,
    limit: usize,
    turn: usize,
    out: &mut Vec<u8>,
) -> bool {
    if query.class != INTERNET {
        return false;
    }
    match query.kind {
        A | AAAA | MX => {
            let Some(mut addresses) = table.look_up(number, &query.name) else { return false };
            addresses.retain(|address| query.kind == if address.is_ipv4() { A } else { AAAA });
            if addresses.len() > 1 {
                let count = addresses.len();
                addresses.rotate_left(turn % count);
            }
            let mut reply = Reply::new(query, limit, out);
            for address in addresses {
                match address {
                    IpAddr::V4(address) => reply.answer(A, TTL, &address.octets()),
                    IpAddr::V6(address) => reply.answer(AAAA, TTL, &address.octets()),
                }
            }
            reply.finish(NO_ERROR);
            true
        }
        PTR => {
            let address = query.name.reversed_address();
            let Some(name) = address.and_then(|address| table.look_back(number, address)) else {
                return false;
            };
            let mut reply = Reply::new(query, limit, out);
            reply.answer(PTR, TTL, &[name, &[0]].concat());
            reply.finish(NO_ERROR);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::query;
    use super::super::message::{word, HEADER};
    use super::super::table::tests::{membership, sandbox};
    use super::*;

    fn table() -> (Table, u32) {
        let mut table = Table::default();
        let one = table.set(sandbox("1", vec![membership("shop", &["web"], &["10.0.0.2", "fd00::2"])]));
        for number in 3..103 {
            let address = format!("10.0.0.{number}");
            table.set(sandbox(
                &number.to_string(),
                vec![membership("shop", &[&format!("n{number}"), "many"], &[&address])],
            ));
        }
        (table, one)
    }

    /// (answers, bytes after the question) of the answer.
    fn ask(name: &str, kind: u16, limit: usize, turn: usize) -> Option<(u16, Vec<u8>)> {
        let (table, one) = table();
        let message = query(7, name, kind, None);
        let query = Query::parse(&message).expect("a good query");
        let mut out = Vec::new();
        answer(&table, one, &query, limit, turn, &mut out)
            .then(|| (word(&out, 6).expect("a header"), out.split_off(HEADER + query.question.len())))
    }

    #[test]
    fn each_family_is_asked_for_by_itself() {
        let (count, records) = ask("web", A, 512, 0).expect("an answer");
        assert_eq!((count, &records[..]), (1, &b"\xc0\x0c\0\x01\0\x01\0\0\x02\x58\0\x04\x0a\0\0\x02"[..]));
        let (count, records) = ask("WEB.shop", AAAA, 512, 0).expect("an answer");
        assert_eq!((count, records.len()), (1, 28));
        assert_eq!(ask("n3", AAAA, 512, 0), Some((0, Vec::new())), "it exists, without such an address");
        assert_eq!(ask("web", MX, 512, 0), Some((0, Vec::new())));
        assert_eq!(ask("other", A, 512, 0), None);
        assert_eq!(ask("web", 16, 512, 0), None);
    }

    #[test]
    fn addresses_have_names() {
        let (_, records) = ask("2.0.0.10.in-addr.arpa", PTR, 512, 0).expect("an answer");
        assert!(records.ends_with(b"\x03web\x04shop\0"), "{records:?}");
        assert_eq!(ask("2.1.0.10.in-addr.arpa", PTR, 512, 0), None);
    }

    #[test]
    fn who_shares_a_name_comes_first_in_turn() {
        let first = |turn| ask("many", A, 4096, turn).expect("an answer").1[..16].to_vec();
        assert_eq!(ask("many", A, 4096, 0).map(|(count, _)| count), Some(100));
        assert_ne!(first(0), first(1));
        assert_eq!(first(1), first(101));
        assert_eq!(ask("many", A, 512, 0).map(|(count, _)| count), Some(30));
    }
}
