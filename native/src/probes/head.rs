//! The first line of an HTTP answer.
//!
//! Source: RFC 9112, section 4; RFC 9110, section 15.2 (interim answers come before the one that counts).

/// Bytes of an answer in which its status must have come.
pub(super) const LIMIT: usize = 16 << 10;

const VERSION: &[u8] = b"HTTP/1.";

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    More,
    Status(u16),
    /// It is not HTTP.
    Garbled,
}

/// The status of the answer that begins with these bytes.
pub(super) fn read(mut bytes: &[u8]) -> Head {
    loop {
        let length = bytes.len().min(VERSION.len());
        if bytes[..length] != VERSION[..length] {
            return Head::Garbled;
        }
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Head::More };
        match status_of(&bytes[..end]) {
            None => return Head::Garbled,
            Some(100 | 102..=199) => {}
            Some(status) => return Head::Status(status),
        }
        match end_of_head(bytes) {
            Some(end) => bytes = &bytes[end..],
            None => return Head::More,
        }
    }
}

/// `HTTP/1.1 200 OK`, perhaps with a carriage return.
fn status_of(line: &[u8]) -> Option<u16> {
    let line = line.strip_suffix(b"\r").unwrap_or(line).strip_prefix(VERSION)?;
    let [minor, b' ', code @ ..] = line else { return None };
    if !minor.is_ascii_digit() || code.len() < 3 || code.get(3).is_some_and(|after| *after != b' ') {
        return None;
    }
    let code = &code[..3];
    if !code.iter().all(u8::is_ascii_digit) || code[0] == b'0' {
        return None;
    }
    Some(code.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

/// Where the empty line ends.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line_is_empty = false;
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty => return Some(index + 1),
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_as_soon_as_its_line_is_there() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nServer: x"), Head::Status(200));
        assert_eq!(read(b"HTTP/1.0 503\n"), Head::Status(503));
        assert_eq!(read(b"HTTP/1.1 302 \r\n"), Head::Status(302));
        for part in [&b""[..], b"HT", b"HTTP/1.1 200 OK"] {
            assert_eq!(read(part), Head::More);
        }
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let answer =
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\n";
        assert_eq!(read(answer), Head::Status(404));
        assert_eq!(read(b"HTTP/1.1 100 Continue\r\nX: y\r\n"), Head::More);
        assert_eq!(read(b"HTTP/1.1 100 Continue\r\n\r\n"), Head::More);
        assert_eq!(read(b"HTTP/1.1 101 Switching\r\n"), Head::Status(101));
    }

    #[test]
    fn what_is_not_http_is_told_at_once() {
        for garbage in [
            &b"\x15\x03\x01"[..],
            b"SSH-2.0-x",
            b"HTTP/2 200\r\n",
            b"HTTP/1.1 20\r\n",
            b"HTTP/1.1 2000\r\n",
            b"HTTP/1.1 abc\r\n",
            b"HTTP/1.1 099\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.x 200\r\n",
            b"HTTP/1.1 100 x\r\n\r\ngarbage",
        ] {
            assert_eq!(read(garbage), Head::Garbled, "{}", String::from_utf8_lossy(garbage));
        }
    }
}
