//! How connections end, and with them the process.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    thread,
};

use wg_embed::sync::lock;

use crate::harness::{ECHO, PATIENCE, World, connect, wait};

fn stdio(target: &str) -> String {
    format!("[STDIOTunnel]\nTarget = {target}\n")
}

#[test]
fn standard_input_and_output_are_a_connection() {
    let world = World::new();
    let mut proxy = world.start(&stdio("10.9.0.1:7"));
    let mut input = proxy.child.stdin.take().unwrap();
    input.write_all(b"over stdin").unwrap();
    drop(input);
    let mut output = String::new();
    proxy.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "over stdin");
    assert!(proxy.child.wait().unwrap().success());
}

/// The target ends first: the output has an end then, and what is still sent arrives before the process ends.
#[test]
fn an_upload_is_delivered() {
    let world = World::new();
    let mut proxy = world.start(&stdio("10.9.0.1:19"));
    let mut output = String::new();
    proxy.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "bye");
    let upload: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 8) as u8 ^ n as u8).collect();
    let mut input = proxy.child.stdin.take().unwrap();
    input.write_all(&upload).unwrap();
    drop(input);
    assert!(proxy.child.wait().unwrap().success());
    wait("the upload", || !lock(&world.read).is_empty());
    assert!(lock(&world.read)[0] == upload);
}

/// The process ends as soon as it can, but not before a slow target has read everything.
#[test]
fn a_slow_target_has_the_whole_upload() {
    let world = World::new();
    let listener = world.stack.listen_tcp("10.9.0.1:81".parse().unwrap(), 1).unwrap();
    let mut proxy = world.start(&stdio("10.9.0.1:81"));
    let mut input = proxy.child.stdin.take().unwrap();
    let target = listener.accept(Some(PATIENCE)).unwrap();
    target.shutdown(Shutdown::Write).unwrap();
    let upload = vec![b'x'; 20_000_000];
    let size = upload.len();
    let writer = thread::spawn(move || input.write_all(&upload).unwrap());
    // What both buffers hold has left the process's input before the first byte is read.
    let mut buf = vec![0; 1 << 20];
    let mut came = 0;
    loop {
        let length = (&target).read(&mut buf).unwrap();
        if length == 0 {
            break;
        }
        came += length;
        thread::sleep(std::time::Duration::from_millis(5));
    }
    writer.join().unwrap();
    assert_eq!(came, size);
    assert!(proxy.child.wait().unwrap().success());
}

/// The target has ended, and is reset before it has read what came: the process had only to deliver that.
#[test]
fn a_reset_before_all_was_delivered_is_an_error_of_the_process() {
    let world = World::new();
    let listener = world.stack.listen_tcp("10.9.0.1:81".parse().unwrap(), 1).unwrap();
    let mut proxy = world.start(&stdio("10.9.0.1:81"));
    let mut input = proxy.child.stdin.take().unwrap();
    let target = listener.accept(Some(PATIENCE)).unwrap();
    target.shutdown(Shutdown::Write).unwrap();
    // More than the window of a target that does not read, and no more than a connection's first send buffer.
    input.write_all(&vec![b'x'; 128 << 10]).unwrap();
    drop(input);
    proxy.wait_for_log("[STDIOTunnel]: both directions have ended");
    target.reset();
    assert_eq!(proxy.child.wait().unwrap().code(), Some(1));
    proxy.wait_for_log("[STDIOTunnel]: not all bytes were delivered: connection reset");
}

#[test]
fn a_target_that_refuses_is_an_error_of_the_process() {
    let world = World::new();
    let mut refused = world.start(&stdio("10.9.0.1:9"));
    assert_eq!(refused.child.wait().unwrap().code(), Some(1));
    refused.wait_for_log("[STDIOTunnel] 10.9.0.1:9: connection refused");
}

#[test]
fn a_reset_is_an_error_of_the_process() {
    let world = World::new();
    let listener = world.stack.listen_tcp("10.9.0.1:81".parse().unwrap(), 1).unwrap();
    let mut cut = world.start(&stdio("10.9.0.1:81"));
    let target = listener.accept(Some(PATIENCE)).unwrap();
    (&target).write_all(b"a part").unwrap();
    let mut output = cut.child.stdout.take().unwrap();
    let mut part = [0; 6];
    output.read_exact(&mut part).unwrap();
    target.reset();
    assert_eq!(output.read(&mut part).unwrap(), 0);
    assert_eq!(cut.child.wait().unwrap().code(), Some(1));
    cut.wait_for_log("[STDIOTunnel] 10.9.0.1:81: connection reset");
}

/// A protocol without messages for errors has a reset.
#[test]
fn a_target_that_refuses_is_a_reset() {
    let world = World::new();
    let proxy = world.proxy("[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.9.0.1:9\n");
    let mut stream = connect(proxy.port(0));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_signal_ends_connections_without_resets_and_errors() {
    let world = World::new();
    let listener = world.stack.listen_tcp("10.9.0.1:81".parse().unwrap(), 2).unwrap();
    let mut proxy = world.proxy(&format!("{ECHO}[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.9.0.1:81\n"));
    let mut echo = connect(proxy.port(0));
    echo.write_all(b"x").unwrap();
    echo.read_exact(&mut [0]).unwrap();
    let mut client = connect(proxy.port(1));
    let target = listener.accept(Some(PATIENCE)).unwrap();
    client.write_all(b"last words").unwrap();
    (&target).write_all(b"last answer").unwrap();
    let mut answer = [0; 11];
    client.read_exact(&mut answer).unwrap();
    target.set_read_timeout(Some(PATIENCE));
    let mut words = [0; 10];
    (&target).read_exact(&mut words).unwrap();
    proxy.signal("TERM");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(echo.read(&mut [0]).unwrap(), 0);
    assert_eq!((&target).read(&mut [0]).unwrap(), 0);
    drop(target);
    assert!(proxy.child.wait().unwrap().success());
    let errors: Vec<_> = proxy.log().into_iter().filter(|line| line.contains(" ERROR ")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// A side that does not end is reset in the end, and does not keep the process.
#[test]
fn a_side_that_goes_on_is_reset() {
    let world = World::new();
    let listener = world.stack.listen_tcp("10.9.0.1:81".parse().unwrap(), 1).unwrap();
    let mut proxy = world.proxy("[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.9.0.1:81\n");
    let _client = connect(proxy.port(0));
    let target = listener.accept(Some(PATIENCE)).unwrap();
    proxy.signal("TERM");
    assert!(proxy.child.wait().unwrap().success());
    target.set_read_timeout(Some(PATIENCE));
    // Its end came first, and then the reset.
    let mut last = (&target).read(&mut [0]);
    while last.is_ok() {
        last = (&target).write_all(b"x").map(|()| 0);
        thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(matches!(last.unwrap_err().kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
}
