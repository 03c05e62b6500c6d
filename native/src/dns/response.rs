//! Servers' responses: which is believed, how long it is kept, and how it comes to fit another client.
//!
//! A response is passed on as it came, but for its id, the question as the client wrote it, and times to live that
//! have run since. Source: RFC 1035, section 4; RFC 2308, section 5; RFC 5452, section 9.

use super::message::{word, Query, Record, HEADER, NAME_ERROR, NO_ERROR, OPT, RESPONSE, SOA, TRUNCATED};
use super::name::Name;

/// Seconds that anything is kept at most, and that there is nothing.
const LONGEST: u32 = 24 * 3600;
const LONGEST_NEGATIVE: u32 = 3600;

/// What a believable response says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub code: u8,
    pub truncated: bool,
    /// Seconds it may be kept; `None` for not at all.
    pub keep: Option<u32>,
    /// Where its times to live stand.
    pub ttls: Vec<u16>,
}

impl Response {
    /// `None` for a message that is not the answer to what was asked under `id`: it may be anybody's.
    #[must_use]
    pub fn read(message: &[u8], id: u16, question: &[u8]) -> Option<Self> {
        let flags = word(message, 2)?;
        let asked = message.get(HEADER..HEADER + question.len())?;
        if word(message, 0)? != id
            || flags & RESPONSE == 0
            || word(message, 4)? != 1
            || !asked.eq_ignore_ascii_case(question)
        {
            return None;
        }
        let code = (flags & 0xf) as u8;
        let truncated = flags & TRUNCATED != 0;
        let counts = [word(message, 6)?, word(message, 8)?, word(message, 10)?];
        let lives = Lives::read(message, HEADER + question.len(), counts);
        let Some(lives) = lives.filter(|_| !truncated) else {
            // One that breaks off is passed on where it says so.
            return truncated.then_some(Self { code, truncated, keep: None, ttls: Vec::new() });
        };
        Some(Self { code, truncated, keep: lives.keep(code, counts[0]), ttls: lives.places })
    }
}

/// Times to live of a message's records.
#[derive(Debug, Default)]
struct Lives {
    least: Option<u32>,
    /// How long there is nothing: of the zone's SOA record.
    negative: Option<u32>,
    places: Vec<u16>,
}

impl Lives {
    fn read(message: &[u8], mut at: usize, counts: [u16; 3]) -> Option<Self> {
        let mut lives = Self::default();
        for (section, count) in counts.into_iter().enumerate() {
            for _ in 0..count {
                let record = Record::read(message, at)?;
                at = record.next;
                if record.kind == OPT {
                    continue;
                }
                let ttl = seconds(message, record.ttl_at)?;
                lives.places.push(u16::try_from(record.ttl_at).ok()?);
                lives.least = Some(lives.least.map_or(ttl, |least| least.min(ttl)));
                if record.kind == SOA && section == 1 {
                    // Two names and four numbers come before the minimum.
                    let numbers = Name::skip(message, Name::skip(message, record.data_at)?)?;
                    let minimum = seconds(message, numbers + 16).filter(|_| numbers + 20 <= record.next)?;
                    lives.negative = Some(minimum.min(ttl));
                }
            }
        }
        Some(lives)
    }

    fn keep(&self, code: u8, answers: u16) -> Option<u32> {
        match (code, answers) {
            (NO_ERROR, 1..) => self.least.map(|ttl| ttl.min(LONGEST)),
            (NO_ERROR | NAME_ERROR, _) => self.negative.map(|ttl| ttl.min(LONGEST_NEGATIVE)),
            _ => None,
        }
        .filter(|ttl| *ttl > 0)
    }
}

/// A time to live; one with the top bit set counts as none.
fn seconds(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at + 4)?;
    let value = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Some(if value >> 31 == 0 { value } else { 0 })
}

/// Write into `out` what the client behind `query` gets of a response, at most `limit` bytes; one that does not
/// fit becomes its question and the mark for "ask over TCP". `elapsed` in seconds since it came.
pub fn fit(message: &[u8], query: &Query<'_>, limit: usize, ttls: &[u16], elapsed: u32, out: &mut Vec<u8>) {
    let after = HEADER + query.question.len();
    if message.len() > limit || message.len() < after {
        super::message::reply_code(query, word(message, 2).map_or(0, |flags| (flags & 0xf) as u8), out);
        out[2] |= (TRUNCATED >> 8) as u8;
        return;
    }
    out.clear();
    out.extend(query.id.to_be_bytes());
    out.extend(&message[2..HEADER]);
    out.extend(query.question);
    out.extend(&message[after..]);
    if elapsed == 0 {
        return;
    }
    for at in ttls.iter().map(|at| usize::from(*at)) {
        let left = seconds(out, at).unwrap_or_default().saturating_sub(elapsed);
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&left.to_be_bytes());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::message::tests::query;
    use super::super::message::{A, INTERNET, SERVER_FAILURE};
    use super::*;

    /// A response to `query` with `records` in (answer, authority) sections.
    pub fn response(query: &[u8], code: u8, answers: &[Vec<u8>], authority: &[Vec<u8>]) -> Vec<u8> {
        let question = Query::parse(query).expect("a good query").question.to_vec();
        let mut message = query[..2].to_vec();
        message.extend([0x81, 0x80 | code, 0, 1, 0, answers.len() as u8, 0, authority.len() as u8, 0, 0]);
        message.extend(question);
        for record in answers.iter().chain(authority) {
            message.extend(record);
        }
        message
    }

    pub fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut record = vec![0xc0, 12];
        record.extend(kind.to_be_bytes());
        record.extend(INTERNET.to_be_bytes());
        record.extend(ttl.to_be_bytes());
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        record
    }

    pub fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
        let mut data = b"\x02ns\xc0\x0c\x01h\xc0\x0c".to_vec();
        data.extend([0; 16]);
        data.extend(minimum.to_be_bytes());
        record(SOA, ttl, &data)
    }

    fn read(message: &[u8], asked: &[u8]) -> Option<Response> {
        let question = Query::parse(asked).expect("a good query").question;
        Response::read(message, word(asked, 0).expect("an id"), question)
    }

    #[test]
    fn only_the_answer_to_the_question_is_believed() {
        let asked = query(7, "Example.org", A, None);
        let good = response(&query(7, "eXample.org", A, None), 0, &[record(A, 60, &[1, 2, 3, 4])], &[]);
        assert_eq!(read(&good, &asked).and_then(|response| response.keep), Some(60));
        for other in [
            query(8, "example.org", A, None),
            query(7, "example.net", A, None),
            query(7, "example.org", SOA, None),
        ] {
            assert_eq!(read(&response(&other, 0, &[record(A, 60, &[1, 2, 3, 4])], &[]), &asked), None);
        }
        assert_eq!(read(&asked, &asked), None, "a query is no response");
        assert_eq!(read(&good[..good.len() - 1], &asked), None, "cut off and not marked so");
    }

    #[test]
    fn how_long_it_is_kept() {
        let asked = query(7, "example.org", A, None);
        let keep = |code, answers: &[Vec<u8>], authority: &[Vec<u8>]| {
            read(&response(&asked, code, answers, authority), &asked).expect("believable").keep
        };
        let answer = |ttl| record(A, ttl, &[1, 2, 3, 4]);
        assert_eq!(keep(NO_ERROR, &[answer(60), answer(30)], &[]), Some(30));
        assert_eq!(keep(NO_ERROR, &[answer(0)], &[]), None);
        assert_eq!(keep(NO_ERROR, &[answer(u32::MAX)], &[]), None, "a negative time is none");
        assert_eq!(keep(NO_ERROR, &[answer(1 << 30)], &[]), Some(LONGEST));
        assert_eq!(keep(NAME_ERROR, &[], &[soa(300, 20)]), Some(20));
        assert_eq!(keep(NO_ERROR, &[], &[soa(10, 20)]), Some(10), "no data");
        assert_eq!(keep(NAME_ERROR, &[], &[]), None, "nobody said how long");
        assert_eq!(keep(SERVER_FAILURE, &[], &[soa(300, 20)]), None);
    }

    #[test]
    fn another_client_gets_its_own_question_and_what_is_left_of_the_time() {
        let asked = query(7, "example.org", A, None);
        let message = response(&asked, 0, &[record(A, 60, &[1, 2, 3, 4])], &[]);
        let kept = read(&message, &asked).expect("believable");
        let other = query(9, "EXAMPLE.org", A, None);
        let client = Query::parse(&other).expect("a good query");
        let mut out = Vec::new();
        fit(&message, &client, 512, &kept.ttls, 25, &mut out);
        assert!(out.starts_with(&[0, 9]) && out[HEADER..].starts_with(b"\x07EXAMPLE"));
        let again = read(&out, &other).expect("believable");
        assert_eq!(again.keep, Some(35));
        fit(&message, &client, 30, &kept.ttls, 25, &mut out);
        assert!(read(&out, &other).is_some_and(|response| response.truncated));
    }
}
