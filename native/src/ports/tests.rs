//! Ports held and passed on, over loopback sockets of the tests' own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::server::Handle;
use super::{Held, Port};

fn port(protocol: &str, address: &str, target: Option<SocketAddr>) -> Port {
    let address: std::net::IpAddr = address.parse().expect("an address");
    // A port that was free a moment ago.
    let free = match protocol {
        "tcp" => TcpListener::bind((address, 0)).and_then(|socket| socket.local_addr()),
        _ => UdpSocket::bind((address, 0)).and_then(|socket| socket.local_addr()),
    };
    Port { protocol: protocol.into(), address, number: free.expect("a free port").port(), target }
}

fn held(port: &Port) -> Vec<Held> {
    vec![port.clone().hold().unwrap_or_else(|e| panic!("{e}"))]
}

fn connect(port: &Port) -> TcpStream {
    let stream = TcpStream::connect((port.address, port.number)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream
}

#[test]
fn bytes_and_their_end_pass_both_ways_from_ipv6_to_ipv4() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let port = port("tcp", "::1", Some(server.local_addr().expect("its address")));
    let handle = Handle::start().unwrap_or_else(|e| panic!("{e}"));
    handle.add("c1", held(&port));
    let payload: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let sent = payload.clone();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a client");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("all of it");
        stream.write_all(&got).expect("all of it back");
    });
    let mut client = connect(&port);
    let mut writer = client.try_clone().expect("a duplicate");
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).expect("room");
        writer.shutdown(Shutdown::Write).expect("an end");
    });
    let mut back = Vec::new();
    client.read_to_end(&mut back).expect("the echo");
    assert!(back == payload);
    writing.join().expect("the writer");
    echo.join().expect("the server");
    assert_eq!(handle.stop().len(), 1);
}

#[test]
fn a_target_that_refuses_closes_the_client() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let port = port("tcp", "127.0.0.1", Some(nobody));
    let handle = Handle::start().unwrap_or_else(|e| panic!("{e}"));
    handle.add("c1", held(&port));
    let mut client = connect(&port);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    drop(handle.stop());
}

#[test]
fn datagrams_find_their_way_back_to_each_client() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a server");
    let port = port("udp", "::1", Some(server.local_addr().expect("its address")));
    let handle = Handle::start().unwrap_or_else(|e| panic!("{e}"));
    handle.add("c1", held(&port));
    let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("[::1]:0").expect("a client")).collect();
    for socket in clients.iter().chain([&server]) {
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    }
    let mut buffer = [0u8; 16];
    for (number, client) in clients.iter().enumerate() {
        client.send_to(&[number as u8], (port.address, port.number)).expect("sent");
        let (length, from) = server.recv_from(&mut buffer).expect("arrived");
        assert_eq!(&buffer[..length], [number as u8]);
        server.send_to(&[number as u8 + 10], from).expect("answered");
        let (length, from) = client.recv_from(&mut buffer).expect("the answer");
        assert_eq!(&buffer[..length], [number as u8 + 10]);
        assert_eq!(from, SocketAddr::new(port.address, port.number));
    }
    drop(handle.stop());
}

#[test]
fn a_port_is_held_until_it_is_kept_no_more() {
    let port = port("tcp", "127.0.0.1", None);
    let handle = Handle::start().unwrap_or_else(|e| panic!("{e}"));
    handle.add("c1", held(&port));
    handle.keep("c1", vec![port.clone()]);
    let error = port.clone().hold().map_or_else(|error| error, |_| panic!("it was free"));
    assert_eq!(error.errno(), rustix::io::Errno::ADDRINUSE.raw_os_error());
    assert!(error.to_string().contains(&format!("bind 127.0.0.1:{}/tcp", port.number)), "{error}");
    let left = handle.stop();
    assert!(port.clone().hold().is_err(), "what is left is held still");
    drop(left);
    drop(held(&port));
}
