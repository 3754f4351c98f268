//! What is found of line breaks in values is what a reader of CSV finds.

use super::*;

/// Bytes that matter, and one that does not.
const BYTES: &[u8] = b"a,\"\n\r";

fn commas() -> Dialect {
    Dialect::of(&CsvOptions::default())
}

fn rows(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut reader = csv::ReaderBuilder::new();
    let mut reader = reader.has_headers(false).flexible(true).from_reader(text);
    let records = reader.byte_records().map(|record| record.unwrap());
    let values = records.map(|record| record.iter().map(<[u8]>::to_vec).collect());
    values.collect()
}

/// What is found when `text` comes in two pieces, wherever they meet.
fn found(text: &[u8], dialect: Dialect) -> bool {
    let whole = Place::RowStart.after(text, dialect);
    for at in 0..=text.len() {
        let first = Place::RowStart.after(&text[..at], dialect);
        let both = first.and_then(|place| place.after(&text[at..], dialect));
        assert_eq!(both.is_none(), whole.is_none(), "{at} {text:?}");
    }
    whole.is_none()
}

#[test]
fn what_is_cut_has_the_same_rows() {
    let (mut cut, mut left) = (0, 0);
    for length in 1..=6 {
        for number in 0..BYTES.len().pow(length) {
            let byte = |place: u32| BYTES[number / BYTES.len().pow(place) % BYTES.len()];
            let text: Vec<u8> = (0..length).map(byte).collect();
            let whole = rows(&text);
            if found(&text, commas()) {
                left += 1;
                assert!(text.contains(&b'"') && text.contains(&b'\n'));
                continue;
            }
            cut += 1;
            let parts = text.split_inclusive(|byte| *byte == b'\n');
            let apart: Vec<_> = parts.flat_map(rows).collect();
            assert_eq!(apart, whole, "{:?}", String::from_utf8_lossy(&text));
        }
    }
    // Of 19,530; the others have quotes and line breaks.
    assert!(cut > 15_000 && left > 4_000, "{cut} {left}");
}

#[test]
fn each_dialect_has_its_own_rules() {
    let of = |change: fn(&mut CsvOptions)| {
        let mut options = CsvOptions::default();
        change(&mut options);
        Dialect::of(&options)
    };
    let tabs = of(|options| options.delimiter = b'\t');
    assert!(!found(b"a,\"b\nc\"\n", tabs));
    assert!(found(b"a\t\"b\nc\"\n", tabs));
    let apostrophes = of(|options| options.quote = b'\'');
    assert!(!found(b"\"a\nb\"\n", apostrophes));
    assert!(found(b"'a\nb'\n", apostrophes));
    let dollars = of(|options| options.terminator = Some(b'$'));
    assert!(!found(b"a$\"b\nc\"$", dollars));
    assert!(!found(b"a\n\"b,\"x\"y$", dollars));
    assert!(found(b"a\n\"b,\"x$y\"$", dollars));
    let escapes = of(|options| options.escape = Some(b'\\'));
    assert!(found(b"\"a\",b\n", escapes) && !found(b"a,b\n", escapes));
    assert!(found(b"#\"\n", of(|options| options.comment = Some(b'#'))));
    assert!(found(
        b"\"a\"\n",
        of(|options| options.double_quote = Some(false))
    ));
}

#[tokio::test]
async fn files_are_looked_through_once() {
    let store = object_store::memory::InMemory::new();
    let path = Path::from("a.csv");
    let long = vec![b'x'; PIECE_BYTES as usize - 3];
    let text = [BYTE_ORDER_MARK, b"\"", &long, b"\n\"\n"].concat();
    store.put(&path, text.into()).await.unwrap();
    let file = store.head(&path).await.unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let looked = Arc::new(Looked::default());
    let found = |file: ObjectMeta| looked.have_breaks(&store, vec![file], commas());
    assert!(found(file.clone()).await.unwrap());
    store.delete(&path).await.unwrap();
    assert!(found(file.clone()).await.unwrap());
    let later = ObjectMeta { size: 3, ..file };
    let error = found(later).await.unwrap_err().to_string();
    assert!(error.contains("a.csv"), "{error}");
}
