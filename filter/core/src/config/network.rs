//! Networks of IP addresses.

use core::net::IpAddr;

/// A network: the addresses that have its leading bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// One address alone. An IPv4 address written as an IPv6 one (`::ffff:10.0.0.1`) is itself.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Reads an address and the length of its prefix (RFC 4632, section 3.1; RFC 4291, section
    /// 2.3); nothing where bits behind the prefix are set, since then it is not said whether one
    /// address is meant or the network, or where an IPv4 network is written as an IPv6 one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let whole = Self::of(address.parse().ok()?);
        let digits = bits.bytes().all(|b| b.is_ascii_digit());
        let plain = digits && (bits.len() == 1 || !bits.starts_with('0'));
        let network = Self { address: whole.address, bits: bits.parse().ok()? };
        let fits = network.bits <= whole.bits && address.contains(':') == network.address.is_ipv6();
        (plain && fits && prefix(network.address, network.bits) == network.address)
            .then_some(network)
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        prefix(address.to_canonical(), self.bits) == self.address
    }
}

/// `address` with all bits behind the first `bits` zero.
fn prefix(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let behind = u32::MAX.checked_shr(bits).unwrap_or_default();
            IpAddr::V4((v4.to_bits() & !behind).into())
        }
        IpAddr::V6(v6) => {
            let behind = u128::MAX.checked_shr(bits).unwrap_or_default();
            IpAddr::V6((v6.to_bits() & !behind).into())
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn networks_contain_what_has_their_prefix() {
        for (network, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"][..],
                &["11.0.0.0", "9.255.255.255", "a00::"][..],
            ),
            ("172.16.0.0/12", &["172.16.0.1", "172.31.255.255"], &["172.15.255.255", "172.32.0.0"]),
            ("10.1.2.3/32", &["10.1.2.3"], &["10.1.2.2"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "::1"]),
            ("fd00::/8", &["fd00::7", "fdff::"], &["fc00::", "fe00::", "253.0.0.1"]),
            ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::"]),
            ("::1/128", &["::1"], &["::2", "0.0.0.1"]),
            ("::/0", &["::", "ffff::"], &["10.0.0.1", "::ffff:10.0.0.1"]),
        ] {
            let network = Network::parse(network).unwrap();
            for (addresses, expected) in [(inside, true), (outside, false)] {
                for address in addresses {
                    let contains = network.contains(address.parse().unwrap());
                    assert_eq!(contains, expected, "{network:?} {address}");
                }
            }
        }
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        for (address, network) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("FD00:0::7", "fd00::7/128"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Some(Network::of(address)), Network::parse(network));
            assert!(Network::of(address).contains(address));
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8.0",
            "10.0.0.0/8/8",
            "10.0.0.0/256",
            "10.0/16",
            "10/8",
            "10.0.0.1/8",
            "0.0.0.1/0",
            "fd00::/129",
            "fd00::1/8",
            "[fd00::]/8",
            "fd00::%1/8",
            "::ffff:10.0.0.0/104",
            "::ffff:10.0.0.0/8",
            " 10.0.0.0/8",
            "10.0.0.0/ 8",
            "010.0.0.0/8",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
