use super::*;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Passes whole blocks; after each of them the table has the size that is told.
fn pass(blocks: &mut Blocks, table: &[(&str, usize)]) {
    for (hex, size) in table {
        let mut bytes = unhex(hex);
        blocks.pass(&mut bytes).expect("a good block");
        assert!(blocks.is_between_fields());
        assert_eq!((bytes, blocks.names.size()), (unhex(hex), *size), "{hex}");
    }
}

/// Whether a block is refused as broken.
fn is_lost(hex: &str) -> bool {
    Blocks::default().pass(&mut unhex(hex)).is_err()
}

// RFC 7541, appendix C: the sizes are those that it gives.
#[test]
fn requests_of_the_rfc_stay_as_they_are() {
    let plain = [
        ("828684410f7777772e6578616d706c652e636f6d", 57),
        ("828684be58086e6f2d6361636865", 110),
        ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", 164),
    ];
    pass(&mut Blocks::default(), &plain);
    let coded = [
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", 57),
        ("828684be5886a8eb10649cbf", 110),
        ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", 164),
    ];
    pass(&mut Blocks::default(), &coded);
    let literals = [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", 55),
        ("040c2f73616d706c652f70617468", 55),
        ("100870617373776f726406736563726574", 55),
        ("82", 55),
    ];
    pass(&mut Blocks::default(), &literals);
}

#[test]
fn responses_of_the_rfc_push_entries_out_of_a_small_table() {
    let plain = [
        (
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54\
             6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            222,
        ),
        ("4803333037c1c0bf", 222),
        (
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f\
             3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076\
             657273696f6e3d31",
            215,
        ),
    ];
    let mut blocks = Blocks::default();
    blocks.names.resize(256);
    pass(&mut blocks, &plain);
    let coded = [
        (
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f\
             0b97c8e9ae82ae43d3",
            222,
        ),
        ("4883640effc1c0bf", 222),
        (
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335df\
             dfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            215,
        ),
    ];
    let mut blocks = Blocks::default();
    blocks.names.resize(256);
    pass(&mut blocks, &coded);
}

/// A literal with this name, plain, and the value `a/b`.
fn with_name(name: &[u8]) -> Vec<u8> {
    [&[0x40, name.len() as u8], name, &[3], b"a/b"].concat()
}

#[test]
fn the_name_of_a_literal_may_be_written_out() {
    let cases: [(&[u8], bool); 4] =
        [(b":authority", true), (b":authoritz", false), (b":authorit", false), (b":authority2", false)];
    for (name, is_own) in cases {
        let mut bytes = with_name(name);
        Blocks::default().pass(&mut bytes).expect("a good block");
        assert_eq!(bytes.ends_with(b"a3b"), is_own, "{name:?}");
    }
    // The same in Huffman's code, never indexed.
    let mut bytes = [&[0x10, 0x88][..], &unhex("b83b5339ec327d7f"), &[3], b"a/b"].concat();
    Blocks::default().pass(&mut bytes).expect("a good block");
    assert!(bytes.ends_with(b"a3b"));
}

#[test]
fn the_name_of_a_literal_may_be_in_the_dynamic_table() {
    let mut blocks = Blocks::default();
    // :authority goes in, x-a in front of it; then a value for each of both.
    let mut bytes = [&[0x41, 1][..], b"/", &[0x40, 3], b"x-a", &[1], b"/"].concat();
    blocks.pass(&mut bytes).expect("a good block");
    assert_eq!(bytes, [&[0x41, 1][..], b"3", &[0x40, 3], b"x-a", &[1], b"/"].concat());
    let mut bytes = [&[0x0f, 63 - 15, 1][..], b"/", &[0x0f, 62 - 15, 1], b"/"].concat();
    blocks.pass(&mut bytes).expect("a good block");
    assert_eq!(bytes, [&[0x0f, 63 - 15, 1][..], b"3", &[0x0f, 62 - 15, 1], b"/"].concat());
}

#[test]
fn what_breaks_the_protocol_is_lost() {
    for hex in ["80", "be", "7e 00", "3f e2 1f", "ff ff ff ff ff 00", "41 ff ff ff ff ff 00"] {
        assert!(is_lost(hex), "{hex}");
    }
    for hex in ["82", "bd", "3f e1 1f", "20", "41 00", "41 80", "40 00 00", "ff 80 80 80 80"] {
        assert!(!is_lost(hex) || hex.ends_with("80 80"), "{hex}");
    }
}
