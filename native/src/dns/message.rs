//! Queries: what one may look like, and the reply to it.
//!
//! A message that is no query gets no answer, a query that cannot be understood the code that says so.
//! Source: RFC 1035, section 4; RFC 6891.

use super::name::Name;

pub const HEADER: usize = 12;

pub const A: u16 = 1;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const AAAA: u16 = 28;
pub const OPT: u16 = 41;
pub const INTERNET: u16 = 1;

pub const NO_ERROR: u8 = 0;
pub const FORMAT_ERROR: u8 = 1;
pub const SERVER_FAILURE: u8 = 2;
pub const NAME_ERROR: u8 = 3;
pub const NOT_IMPLEMENTED: u8 = 4;
pub const REFUSED: u8 = 5;
/// The low four bits of `BADVERS` are zero, its upper bits stand in the OPT record.
const BAD_VERSION: u8 = 16;

/// Of the second 16-bit word.
pub const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
pub const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;
const CHECKING_DISABLED: u16 = 1 << 4;

/// What fits a client that says nothing about it.
const SMALLEST: usize = 512;
/// What we say that fits us.
const OUR_SIZE: u16 = 1232;
/// Root, type, size, extended code and flags, length.
const OPT_LENGTH: usize = 11;
const DNSSEC_OK: u16 = 1 << 15;

pub fn word(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// A resource record's place in a message.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub kind: u16,
    pub class: u16,
    /// Where the time to live stands.
    pub ttl_at: usize,
    pub data_at: usize,
    pub next: usize,
}

impl Record {
    pub fn read(message: &[u8], at: usize) -> Option<Self> {
        let fixed = Name::skip(message, at)?;
        let length = usize::from(word(message, fixed + 8)?);
        let next = fixed + 10 + length;
        let (kind, class) = (word(message, fixed)?, word(message, fixed + 2)?);
        (next <= message.len()).then_some(Self { kind, class, ttl_at: fixed + 4, data_at: fixed + 10, next })
    }
}

/// What a query's OPT record says.
#[derive(Debug, Clone, Copy)]
pub struct Edns {
    size: u16,
    version: u8,
    pub dnssec_ok: bool,
    /// It has options (a cookie, a client's subnet): between the client and the server, so not to be kept.
    pub options: bool,
}

/// One understood query.
#[derive(Debug, Clone, Copy)]
pub struct Query<'m> {
    pub id: u16,
    flags: u16,
    pub name: Name,
    pub kind: u16,
    pub class: u16,
    /// The question as the client wrote it.
    pub question: &'m [u8],
    pub edns: Option<Edns>,
}

/// Why a message is not a query to be answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad {
    /// Not a query at all: a response, or too short for one.
    Silence,
    /// A code to answer with.
    Code(u8),
}

impl<'m> Query<'m> {
    pub fn parse(message: &'m [u8]) -> Result<Self, Bad> {
        let header = |at| word(message, at).filter(|_| message.len() >= HEADER).ok_or(Bad::Silence);
        let (id, flags) = (header(0)?, header(2)?);
        if flags & RESPONSE != 0 {
            return Err(Bad::Silence);
        }
        if flags & OPCODE != 0 {
            return Err(Bad::Code(NOT_IMPLEMENTED));
        }
        if header(4)? != 1 {
            return Err(Bad::Code(FORMAT_ERROR));
        }
        let records = usize::from(header(6)?) + usize::from(header(8)?) + usize::from(header(10)?);
        let parts = || {
            let (name, at) = Name::read(message, HEADER)?;
            let end = at + 4;
            let question = message.get(HEADER..end)?;
            let edns = find_edns(message, end, records)?;
            Some(Self {
                id,
                flags,
                name,
                kind: word(message, at)?,
                class: word(message, at + 2)?,
                question,
                edns,
            })
        };
        let query = parts().ok_or(Bad::Code(FORMAT_ERROR))?;
        match query.edns {
            Some(edns) if edns.version > 0 => Err(Bad::Code(BAD_VERSION)),
            _ => Ok(query),
        }
    }

    /// Bytes of the longest reply over UDP.
    #[must_use]
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(SMALLEST, |edns| usize::from(edns.size).max(SMALLEST))
    }

    /// What besides name, type and class makes a difference to a server's response.
    #[must_use]
    pub fn variant(&self) -> u8 {
        let edns = self.edns.map_or(0, |edns| 1 | u8::from(edns.dnssec_ok) << 1);
        let flags = (self.flags & (RECURSION_DESIRED | CHECKING_DISABLED | 1 << 5)) >> 4;
        edns | (flags as u8) << 2
    }
}

/// The first OPT record among those after the question; the outer `None` for a message that breaks off.
#[allow(clippy::option_option)] // "malformed" and "has none" are two things
fn find_edns(message: &[u8], mut at: usize, records: usize) -> Option<Option<Edns>> {
    let mut found = None;
    for _ in 0..records {
        let record = Record::read(message, at)?;
        at = record.next;
        if record.kind == OPT && found.is_none() {
            let flags = word(message, record.ttl_at + 2)?;
            found = Some(Edns {
                size: record.class,
                version: *message.get(record.ttl_at + 1)?,
                dnssec_ok: flags & DNSSEC_OK != 0,
                options: record.data_at < record.next,
            });
        }
    }
    Some(found)
}

/// A reply under construction; records that do not fit are left out, and the reply says so.
#[derive(Debug)]
pub struct Reply<'q, 'b> {
    query: &'q Query<'q>,
    out: &'b mut Vec<u8>,
    limit: usize,
    answers: u16,
    truncated: bool,
}

impl<'q, 'b> Reply<'q, 'b> {
    /// Begin in `out`, whose content goes. `limit` in bytes.
    pub fn new(query: &'q Query<'q>, limit: usize, out: &'b mut Vec<u8>) -> Self {
        out.clear();
        out.extend([0; HEADER]);
        out.extend(query.question);
        let limit = limit - query.edns.map_or(0, |_| OPT_LENGTH);
        Self { query, out, limit, answers: 0, truncated: false }
    }

    /// An answer to the question's own name.
    pub fn answer(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        const TO_THE_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
        if self.truncated || self.out.len() + 12 + data.len() > self.limit {
            self.truncated = true;
            return;
        }
        self.out.extend(TO_THE_QUESTION);
        self.out.extend(kind.to_be_bytes());
        self.out.extend(INTERNET.to_be_bytes());
        self.out.extend(ttl.to_be_bytes());
        self.out.extend((data.len() as u16).to_be_bytes());
        self.out.extend(data);
        self.answers += 1;
    }

    pub fn finish(self, code: u8) {
        let mut flags = RESPONSE | RECURSION_AVAILABLE | u16::from(code & 0xf);
        flags |= self.query.flags & (OPCODE | RECURSION_DESIRED | CHECKING_DISABLED);
        if self.truncated {
            flags |= TRUNCATED;
        }
        let extra = u16::from(self.query.edns.is_some());
        for (place, value) in [self.query.id, flags, 1, self.answers, 0, extra].into_iter().enumerate() {
            self.out[2 * place..2 * place + 2].copy_from_slice(&value.to_be_bytes());
        }
        if let Some(edns) = self.query.edns {
            put_opt(self.out, code, edns.dnssec_ok);
        }
    }
}

fn put_opt(out: &mut Vec<u8>, code: u8, dnssec_ok: bool) {
    out.push(0);
    out.extend(OPT.to_be_bytes());
    out.extend(OUR_SIZE.to_be_bytes());
    out.extend([code >> 4, 0]);
    out.extend((u16::from(dnssec_ok) << 15).to_be_bytes());
    out.extend([0, 0]);
}

/// A reply without records.
pub fn reply_code(query: &Query<'_>, code: u8, out: &mut Vec<u8>) {
    Reply::new(query, usize::MAX, out).finish(code);
}

/// The reply to a query that was not understood: its header comes back. False where none is due.
pub fn reply_bad(message: &[u8], bad: &Bad, out: &mut Vec<u8>) -> bool {
    let (Bad::Code(code), Some(header)) = (bad, message.get(..HEADER)) else { return false };
    out.clear();
    out.extend(&header[..2]);
    let flags = word(header, 2).unwrap_or_default() & (OPCODE | RECURSION_DESIRED);
    out.extend((flags | RESPONSE | RECURSION_AVAILABLE | u16::from(code & 0xf)).to_be_bytes());
    out.extend([0, 0, 0, 0, 0, 0, 0, u8::from(*code > 0xf)]);
    if *code > 0xf {
        put_opt(out, *code, false);
    }
    true
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A query as a stub resolver sends it.
    pub fn query(id: u16, name: &str, kind: u16, edns: Option<(u16, &[u8])>) -> Vec<u8> {
        let mut message = Vec::new();
        for value in [id, RECURSION_DESIRED, 1, 0, 0, u16::from(edns.is_some())] {
            message.extend(value.to_be_bytes());
        }
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        if let Some((size, options)) = edns {
            message.push(0);
            message.extend(OPT.to_be_bytes());
            message.extend(size.to_be_bytes());
            message.extend([0, 0, 0, 0]);
            message.extend((options.len() as u16).to_be_bytes());
            message.extend(options);
        }
        message
    }

    #[test]
    fn a_query_is_taken_apart() {
        let message = query(7, "Web.Shop", AAAA, Some((1400, b"\x00\x0a\x00\x02hi")));
        let query = Query::parse(&message).expect("a good query");
        assert_eq!((query.id, query.kind, query.class), (7, AAAA, INTERNET));
        assert_eq!(query.name.as_bytes(), b"\x03web\x04shop");
        assert!(query.question.starts_with(b"\x03Web"));
        assert!(query.edns.is_some_and(|edns| edns.options && !edns.dnssec_ok));
        assert_eq!(query.udp_limit(), 1400);
    }

    #[test]
    fn what_is_no_query_is_told_apart() {
        let good = query(7, "web", A, None);
        let changed = |at: usize, value: u8| {
            let mut message = good.clone();
            message[at] = value;
            Query::parse(&message).err()
        };
        assert_eq!(Query::parse(&good[..11]).err(), Some(Bad::Silence));
        assert_eq!(changed(2, 0x80), Some(Bad::Silence));
        assert_eq!(changed(2, 0x28), Some(Bad::Code(NOT_IMPLEMENTED)));
        assert_eq!(changed(5, 0), Some(Bad::Code(FORMAT_ERROR)));
        assert_eq!(changed(5, 2), Some(Bad::Code(FORMAT_ERROR)));
        assert_eq!(changed(11, 1), Some(Bad::Code(FORMAT_ERROR)), "a record that is not there");
        assert_eq!(Query::parse(&good[..14]).err(), Some(Bad::Code(FORMAT_ERROR)));
        let mut version = query(7, "web", A, Some((1232, b"")));
        let at = version.len() - 5;
        version[at] = 1;
        assert_eq!(Query::parse(&version).err(), Some(Bad::Code(BAD_VERSION)));
        let mut out = Vec::new();
        assert!(reply_bad(&version, &Bad::Code(BAD_VERSION), &mut out));
        assert_eq!((out[3] & 0xf, out[HEADER + 5]), (0, 1));
        assert!(!reply_bad(&good, &Bad::Silence, &mut out));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let message = query(7, "web", A, None);
        let query = Query::parse(&message).expect("a good query");
        let mut out = Vec::new();
        let mut reply = Reply::new(&query, query.udp_limit(), &mut out);
        for number in 0..40u8 {
            reply.answer(A, 600, &[10, 0, 0, number]);
        }
        reply.finish(NO_ERROR);
        let answers = word(&out, 6).expect("a header");
        assert!(out.len() <= 512 && answers == 30, "{answers} answers in {} bytes", out.len());
        assert!(word(&out, 2).expect("a header") & TRUNCATED != 0);
    }
}
