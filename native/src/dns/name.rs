//! Names as messages carry them: labels behind their lengths, perhaps with a pointer to an earlier name's end.
//!
//! Source: RFC 1035, sections 3.1 and 4.1.4; RFC 3596, section 2.5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name, its root included.
const LONGEST: usize = 255;
const LONGEST_LABEL: usize = 63;
const POINTER: u8 = 0xc0;

/// A name in lower case, as on the wire but without pointers and without the root's zero.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    bytes: [u8; LONGEST],
    length: u8,
}

impl Name {
    const ROOT: Self = Self { bytes: [0; LONGEST], length: 0 };

    /// Read the name at `at`; also where the message goes on. Each pointer must lead further back than the one
    /// before it, so that the work is bounded.
    pub fn read(message: &[u8], mut at: usize) -> Option<(Self, usize)> {
        let mut name = Self::ROOT;
        let mut next = None;
        let mut floor = at;
        loop {
            let length = *message.get(at)?;
            if length == 0 {
                return Some((name, next.unwrap_or(at + 1)));
            }
            if length & POINTER == POINTER {
                let target = usize::from(length & !POINTER) << 8 | usize::from(*message.get(at + 1)?);
                if target >= floor {
                    return None;
                }
                next = next.or(Some(at + 2));
                floor = target;
                at = target;
                continue;
            }
            // Two of the four kinds of label are reserved.
            if usize::from(length) > LONGEST_LABEL {
                return None;
            }
            let end = at + 1 + usize::from(length);
            name.push(message.get(at + 1..end)?)?;
            at = end;
        }
    }

    /// Where the message goes on after the name at `at`, which is not looked into any further.
    pub fn skip(message: &[u8], mut at: usize) -> Option<usize> {
        loop {
            let length = *message.get(at)?;
            match length {
                0 => return Some(at + 1),
                _ if length & POINTER == POINTER => return (at + 2 <= message.len()).then_some(at + 2),
                _ if usize::from(length) > LONGEST_LABEL => return None,
                _ => at += 1 + usize::from(length),
            }
        }
    }

    /// `web.shop`, with or without a dot at the end; `None` for what cannot be a name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut name = Self::ROOT;
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            name.push(label.as_bytes())?;
        }
        Some(name)
    }

    /// Append a label.
    fn push(&mut self, label: &[u8]) -> Option<()> {
        let start = usize::from(self.length);
        let end = start + 1 + label.len();
        // The root's zero must have room, too.
        if label.is_empty() || label.len() > LONGEST_LABEL || end >= LONGEST {
            return None;
        }
        self.bytes[start] = label.len() as u8;
        self.bytes[start + 1..end].copy_from_slice(label);
        self.bytes[start + 1..end].make_ascii_lowercase();
        self.length = end as u8;
        Some(())
    }

    /// Its labels behind their lengths, in lower case.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The name cut before each label but the first: `a.b.c` as (`a.b`, `c`), then (`a`, `b.c`).
    pub fn cuts(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = self.as_bytes();
        let mut starts = [0u8; LONGEST / 2];
        let mut count = 0;
        let mut at = 0;
        while at < bytes.len() {
            starts[count] = at as u8;
            count += 1;
            at += 1 + usize::from(bytes[at]);
        }
        (1..count).rev().map(move |index| bytes.split_at(usize::from(starts[index])))
    }

    #[must_use]
    pub fn has_one_label(&self) -> bool {
        !self.as_bytes().is_empty() && self.cuts().next().is_none()
    }

    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at(usize::from(*length));
            rest = tail;
            Some(label)
        })
    }

    /// The address that a name below in-addr.arpa or ip6.arpa is for.
    #[must_use]
    pub fn reversed_address(&self) -> Option<IpAddr> {
        let bytes = self.as_bytes();
        if bytes.ends_with(b"\x07in-addr\x04arpa") {
            let mut octets = [0u8; 4];
            let mut labels = self.labels();
            for octet in octets.iter_mut().rev() {
                *octet = decimal(labels.next()?)?;
            }
            return (labels.count() == 2).then(|| Ipv4Addr::from(octets).into());
        }
        if bytes.ends_with(b"\x03ip6\x04arpa") {
            let mut address = 0u128;
            let mut labels = self.labels();
            for position in 0..32 {
                let [digit] = labels.next()? else { return None };
                let digit = char::from(*digit).to_digit(16)?;
                address |= u128::from(digit) << (4 * position);
            }
            return (labels.count() == 2).then(|| Ipv6Addr::from(address).into());
        }
        None
    }
}

/// A decimal octet without leading zeros.
fn decimal(label: &[u8]) -> Option<u8> {
    if label.len() > 1 && label[0] == b'0' || !label.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(label).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Name {
        Name::parse(text).unwrap_or_else(|| panic!("{text} is no name"))
    }

    #[test]
    fn text_becomes_labels_in_lower_case() {
        assert_eq!(parsed("Web.Shop").as_bytes(), b"\x03web\x04shop");
        assert_eq!(parsed("web.shop.").as_bytes(), b"\x03web\x04shop");
        assert!(Name::parse("").is_none() && Name::parse("a..b").is_none() && Name::parse(".a").is_none());
        assert!(Name::parse(&"x".repeat(64)).is_none());
        let longest = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "x".repeat(61)].join(".");
        assert_eq!(parsed(&longest).as_bytes().len(), 254);
        assert!(Name::parse(&(longest + "x")).is_none());
    }

    #[test]
    fn pointers_lead_back_and_nowhere_else() {
        let message = b"\x03Two\x00\x03one\xc0\x00\xc0\x09\xc0\x05";
        let (name, next) = Name::read(message, 5).expect("a name with a pointer");
        assert_eq!((name.as_bytes(), next), (&b"\x03one\x03two"[..], 11));
        assert_eq!(Name::skip(message, 5), Some(11));
        // Through two pointers.
        let (name, next) = Name::read(message, 13).expect("a pointer to a pointer");
        assert_eq!((name.as_bytes(), next), (&b"\x03one\x03two"[..], 15));
        for (bad, at) in [
            (&b"\xc0\x00"[..], 0), // to itself
            (b"\x01a\xc0\x00", 0), // round in circles
            (b"\xc0\x02\x00", 0),  // forward
            (b"\xc0", 0),
            (b"\x05abc", 0),
            (b"\x41a\x00", 0), // a reserved kind of label
            (b"", 0),
        ] {
            assert!(Name::read(bad, at).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_through_pointers_is_no_longer_than_any_other() {
        let mut message = Vec::new();
        for _ in 0..5 {
            message.push(63);
            message.extend([b'x'; 63]);
        }
        message.push(0);
        assert!(Name::read(&message, 0).is_none());
        assert!(Name::read(&message, 128).is_some());
    }

    #[test]
    fn cuts_come_from_the_back() {
        let name = parsed("a.b.c");
        let cuts: Vec<_> = name.cuts().collect();
        assert_eq!(cuts, [(&b"\x01a\x01b"[..], &b"\x01c"[..]), (&b"\x01a"[..], &b"\x01b\x01c"[..])]);
        assert!(parsed("a").has_one_label() && !name.has_one_label());
    }

    #[test]
    fn reverse_names_are_addresses() {
        let address = |text: &str| parsed(text).reversed_address().map(|address| address.to_string());
        assert_eq!(address("2.0.18.172.in-addr.arpa").as_deref(), Some("172.18.0.2"));
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.IP6.arpa";
        assert_eq!(address(v6).as_deref(), Some("2001:db8::1"));
        for other in [
            "18.172.in-addr.arpa",
            "1.2.0.18.172.in-addr.arpa",
            "02.0.18.172.in-addr.arpa",
            "256.0.0.1.in-addr.arpa",
            "0.ip6.arpa",
            "x.arpa",
        ] {
            assert_eq!(address(other), None, "{other}");
        }
    }
}
