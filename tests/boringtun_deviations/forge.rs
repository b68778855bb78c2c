//! Messages that boringtun would not make: signed, answered and sealed by hand.

use super::*;

fn labelled_key(label: &[u8; 8], public: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(public.as_bytes()).finalize().into()
}

/// Puts mac1 for `to`, and no mac2, at the end of a handshake message.
pub(super) fn sign(message: &mut [u8], to: &PublicKey) {
    let at = message.len() - 32;
    let mut mac = Blake2sMac::<U16>::new_from_slice(&labelled_key(b"mac1----", to)).unwrap();
    Update::update(&mut mac, &message[..at]);
    message[at..at + 16].copy_from_slice(&mac.finalize_fixed());
    message[at + 16..].fill(0);
}

pub(super) fn cookie_reply(limiter: &RateLimiter, from: IpAddr, initiation: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 64];
    let refused = limiter.verify_packet(Some(from), initiation, &mut buffer).unwrap_err();
    Out::from(refused).datagram()
}

/// The cookie in the reply that B's limiter gives to an initiation.
pub(super) fn cookie(limiter: &RateLimiter, from: IpAddr, initiation: &[u8]) -> [u8; 16] {
    let reply = cookie_reply(limiter, from, initiation);
    let mut cookie: [u8; 16] = reply[32..48].try_into().unwrap();
    let nonce: [u8; 24] = reply[8..32].try_into().unwrap();
    let tag: [u8; 16] = reply[48..].try_into().unwrap();
    XChaCha20Poly1305::new(&labelled_key(b"cookie--", &public(B)).into())
        .decrypt_inout_detached(&nonce.into(), &initiation[116..132], cookie.as_mut_slice().into(), &tag.into())
        .unwrap();
    cookie
}

/// An initiator towards B made by hand.
pub(super) struct Forger {
    private: [u8; 32],
    pub(super) ephemeral: [u8; 32],
    pub(super) timestamp: (u64, u32),
}

impl Forger {
    pub(super) fn new(private: [u8; 32]) -> Self {
        Self { private, ephemeral: [7; 32], timestamp: (KERNEL_EPOCH, 0) }
    }

    pub(super) fn initiation(&self) -> (Vec<u8>, snow::HandshakeState) {
        let mut noise = noise()
            .local_private_key(&self.private)
            .unwrap()
            .remote_public_key(public(B).as_bytes())
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&self.ephemeral)
            .build_initiator()
            .unwrap();
        let mut payload = self.timestamp.0.to_be_bytes().to_vec();
        payload.extend(self.timestamp.1.to_be_bytes());
        let mut message = vec![0; 148];
        message[0] = INITIATION;
        assert_eq!(noise.write_message(&payload, &mut message[8..]).unwrap(), 108);
        sign(&mut message, &public(B));
        (message, noise)
    }

    pub(super) fn connect(&self, b: &mut Peer) -> Session {
        let (initiation, mut noise) = self.initiation();
        let response = b.receive(&initiation).datagram();
        assert_eq!(response[0], RESPONSE);
        assert_eq!(noise.read_message(&response[12..60], &mut []).unwrap(), 0);
        Session { noise: noise.into_stateless_transport_mode().unwrap(), receiver: response[4..8].try_into().unwrap() }
    }
}

/// The sending half of a session made by hand.
pub(super) struct Session {
    noise: snow::StatelessTransportState,
    receiver: [u8; 4],
}

impl Session {
    pub(super) fn seal(&self, counter: u64, packet: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; packet.len() + 16];
        assert_eq!(self.noise.write_message(counter, packet, &mut sealed).unwrap(), sealed.len());
        [&[DATA, 0, 0, 0], &self.receiver[..], &counter.to_le_bytes(), &sealed].concat()
    }
}
