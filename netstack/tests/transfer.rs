//! Bytes arrive as they were sent: of each size around the borders of buffers, over paths that lose, repeat and
//! reorder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{net::Shutdown, time::Duration};

use common::{Path, Seeded, World, pattern, read_all};
use wg_embed_netstack::TcpStream;

const BUFFER: usize = 64 << 10;
const LIMIT: Duration = Duration::from_secs(600);

fn world(path: Path) -> World {
    let small = |options: &mut wg_embed_netstack::Options| {
        options.send_buffer = BUFFER;
        options.receive_buffer = BUFFER;
    };
    let world = World::with(small, small);
    *world.path.lock().unwrap() = path;
    world
}

/// Writes what is left of `data`, in pieces of at most `piece` bytes.
fn write(stream: &TcpStream, data: &[u8], written: &mut usize, piece: usize) {
    while *written < data.len() {
        let end = data.len().min(written.saturating_add(piece));
        match stream.try_write(&data[*written..end]) {
            Ok(n) => *written += n,
            Err(_) => return,
        }
        if *written == data.len() {
            stream.shutdown(Shutdown::Write).unwrap();
        }
    }
}

/// Both ways at once.
fn transfer(world: &World, port: u16, forth: &[u8], back: &[u8], piece: usize) {
    let (client, server) = world.connect_to(common::B, port);
    let (mut to_server, mut to_client) = (0, 0);
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    for (stream, data) in [(&client, forth), (&server, back)] {
        if data.is_empty() {
            stream.shutdown(Shutdown::Write).unwrap();
        }
    }
    let (mut server_done, mut client_done) = (false, false);
    world.until(LIMIT, || {
        write(&client, forth, &mut to_server, piece);
        write(&server, back, &mut to_client, piece);
        for (stream, into, done) in
            [(&server, &mut at_server, &mut server_done), (&client, &mut at_client, &mut client_done)]
        {
            let (data, end) = read_all(stream);
            into.extend(data);
            *done |= end.is_some_and(|end| {
                end.unwrap();
                true
            });
        }
        server_done && client_done
    });
    assert!(at_server == forth && at_client == back, "{} {}", forth.len(), back.len());
}

#[test]
fn sizes_around_the_borders_of_buffers() {
    let world = world(Path { delay: Duration::from_millis(5), ..Path::default() });
    let mss = usize::from(common::MTU) - 40;
    let borders = [1, mss - 12, mss, 2 * (mss - 12), 4096, 16384, BUFFER, 2 * BUFFER];
    let mut port = 1;
    for border in borders {
        for size in [border - 1, border, border + 1] {
            transfer(&world, port, &pattern(size), &pattern(size / 2), usize::MAX);
            port += 1;
        }
    }
}

#[test]
fn loss_reordering_and_repetition_change_no_byte() {
    let chance = Seeded::new(11);
    for (n, loss) in [0, 1, 10, 50, 100].into_iter().enumerate() {
        let path =
            Path { delay: Duration::from_millis(10), loss, twice: 20, reordered: 100, late: Duration::from_millis(15) };
        let world = world(path);
        for round in 0..3 {
            let size = 100_000 + (chance.next() % 100_000) as usize;
            let piece = 1 + (chance.next() % 5000) as usize;
            transfer(&world, 100 + (n * 10 + round) as u16, &pattern(size), &pattern(size / 3), piece);
        }
    }
}

#[test]
fn every_piece_size_is_written_and_read() {
    let world = world(Path::default());
    for (n, piece) in [1, 2, 3, 7, 100, 1367, 1368, 1369, 1380, 5000].into_iter().enumerate() {
        transfer(&world, 300 + n as u16, &pattern(20_000), &pattern(10_000), piece);
    }
}
