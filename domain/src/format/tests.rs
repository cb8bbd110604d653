//! The example trees of the contract, and trees no example shows.

use serde_json::{Value, json};
use uuid::Uuid;

use super::clean::{children_key, field_key};
use super::{
    ContentTree, FlatNode, Format, MAX_DEPTH, Node, NodeContent, NodeDatatype, NodeField, NodeFieldValue,
    UnknownFormat, build,
};
use crate::content::ContentStatus;
use crate::field::FieldKind;
use crate::ids::{ContentFieldId, ContentId, DatatypeId, FieldId, RouteId, UserId};
use crate::values::Timestamp;

const DATE: &str = "2026-02-15T12:00:00Z";
const AUTHOR: u128 = 0xA0;
const ROUTE: u128 = 0xB0;

fn content_id(number: u128) -> ContentId {
    ContentId::new(Uuid::from_u128(number))
}

fn ulid(number: u128) -> String {
    content_id(number).to_ulid()
}

fn moment() -> Option<Timestamp> {
    Some(Timestamp::parse_rfc3339(DATE).unwrap())
}

fn datatype(number: u128, label: &str, kind: &str) -> Option<NodeDatatype> {
    Some(NodeDatatype {
        datatype_id: DatatypeId::new(Uuid::from_u128(number)),
        parent_id: None,
        label: label.to_owned(),
        kind: kind.to_owned(),
        author_id: Some(UserId::new(Uuid::from_u128(AUTHOR))),
        date_created: moment(),
        date_modified: moment(),
    })
}

fn page(number: u128) -> FlatNode {
    node(number, None, datatype(0xD1, "Page", "ROOT"))
}

fn post(number: u128, parent: u128) -> FlatNode {
    node(number, Some(parent), datatype(0xD2, "Blog Post", "post"))
}

fn node(number: u128, parent: Option<u128>, datatype: Option<NodeDatatype>) -> FlatNode {
    FlatNode {
        content: NodeContent {
            content_data_id: content_id(number),
            parent_id: parent.map(content_id),
            first_child_id: None,
            next_sibling_id: None,
            prev_sibling_id: None,
            route_id: Some(RouteId::new(Uuid::from_u128(ROUTE))),
            datatype_id: datatype.as_ref().map(|datatype| datatype.datatype_id),
            author_id: Some(UserId::new(Uuid::from_u128(AUTHOR))),
            status: ContentStatus::Published,
            date_created: moment(),
            date_modified: moment(),
        },
        datatype,
        fields: vec![],
    }
}

fn field(number: u128, label: &str, kind: FieldKind, value: &str) -> NodeField {
    NodeField {
        field_id: FieldId::new(Uuid::from_u128(number)),
        label: label.to_owned(),
        data: String::new(),
        validation: "{}".to_owned(),
        ui_config: "{}".to_owned(),
        kind,
        author_id: Some(UserId::new(Uuid::from_u128(AUTHOR))),
        date_created: moment(),
        date_modified: moment(),
        value: Some(NodeFieldValue {
            content_field_id: ContentFieldId::new(Uuid::from_u128(number + 0x100)),
            value: value.to_owned(),
            date_created: moment(),
            date_modified: moment(),
        }),
    }
}

/// The page "Hello" with one child "First", as in the contract.
fn example() -> ContentTree {
    let mut hello = page(0xC1);
    hello.content.first_child_id = Some(content_id(0xC2));
    hello.fields = vec![
        field(0xF1, "Title", FieldKind::Text, "Hello"),
        field(0xF2, "Slug", FieldKind::Slug, "hello"),
        field(0xF3, "Published", FieldKind::Boolean, "true"),
        field(0xF4, "View Count", FieldKind::Number, "42"),
        field(0xF5, "Body", FieldKind::Richtext, "# Head\n\nText *a*"),
    ];
    let mut first = post(0xC2, 0xC1);
    first.fields = vec![field(0xF1, "Title", FieldKind::Text, "First")];
    build(vec![first, hello])
}

fn document(tree: &ContentTree, format: Format) -> Value {
    serde_json::from_slice(&format.render(tree).unwrap()).unwrap()
}

fn text(tree: &ContentTree, format: Format) -> String {
    String::from_utf8(format.render(tree).unwrap()).unwrap()
}

fn children(node: &Node) -> Vec<u128> {
    node.children
        .iter()
        .map(|child| child.content.content_data_id.as_uuid().as_u128())
        .collect()
}

fn only_field(field: NodeField) -> Value {
    let mut hello = page(1);
    hello.fields = vec![field];
    document(&build(vec![hello]), Format::Clean)
}

#[test]
fn the_example_of_the_contract_renders_raw() {
    let (author, route) = (ulid(AUTHOR), ulid(ROUTE));
    let datatype = |id: u128, label: &str, kind: &str| {
        json!({"datatype_id": ulid(id), "parent_id": "null", "label": label, "type": kind, "author_id": author,
            "date_created": DATE, "date_modified": DATE})
    };
    let field = |id: u128, node: u128, label: &str, kind: &str, value: &str| {
        json!({
            "info": {"field_id": ulid(id), "parent_id": ulid(node), "label": label, "data": "", "validation": "{}",
                "ui_config": "{}", "type": kind, "author_id": author, "date_created": DATE, "date_modified": DATE},
            "content": {"content_field_id": 0, "route_id": 0, "content_data_id": 0, "field_id": 0, "field_value": value,
                "author_id": 0, "date_created": DATE, "date_modified": DATE},
        })
    };
    assert_eq!(
        document(&example(), Format::Raw),
        json!({"root": {
            "datatype": {
                "info": datatype(0xD1, "Page", "ROOT"),
                "content": {"content_data_id": ulid(0xC1), "parent_id": "null", "first_child_id": ulid(0xC2),
                    "next_sibling_id": "", "prev_sibling_id": "", "route_id": route, "datatype_id": ulid(0xD1),
                    "author_id": author, "status": "published", "date_created": DATE, "date_modified": DATE},
            },
            "fields": [
                field(0xF1, 0xC1, "Title", "text", "Hello"),
                field(0xF2, 0xC1, "Slug", "slug", "hello"),
                field(0xF3, 0xC1, "Published", "boolean", "true"),
                field(0xF4, 0xC1, "View Count", "number", "42"),
                field(0xF5, 0xC1, "Body", "richtext", "# Head\n\nText *a*"),
            ],
            "nodes": [{
                "datatype": {
                    "info": datatype(0xD2, "Blog Post", "post"),
                    "content": {"content_data_id": ulid(0xC2), "parent_id": ulid(0xC1), "first_child_id": "",
                        "next_sibling_id": "", "prev_sibling_id": "", "route_id": route, "datatype_id": ulid(0xD2),
                        "author_id": author, "status": "published", "date_created": DATE, "date_modified": DATE},
                },
                "fields": [field(0xF1, 0xC2, "Title", "text", "First")],
            }],
        }})
    );
}

#[test]
fn raw_members_come_in_the_order_of_the_contract() {
    let raw = text(&example(), Format::Raw);
    let start = format!(
        r#"{{"root":{{"datatype":{{"info":{{"datatype_id":"{}","parent_id":"null","label":"Page","type":"ROOT","author_id":"{}","date_created":"{DATE}","date_modified":"{DATE}"}},"content":{{"content_data_id":"{}","parent_id":"null","first_child_id":"{}","next_sibling_id":"","prev_sibling_id":"","route_id""#,
        ulid(0xD1),
        ulid(AUTHOR),
        ulid(0xC1),
        ulid(0xC2),
    );
    assert_eq!(raw[..start.len()], start);
}

#[test]
fn the_example_of_the_contract_renders_clean_byte_for_byte() {
    let meta = format!(
        r#""_meta":{{"authorId":"{}","routeId":"{}","dateCreated":"{DATE}","dateModified":"{DATE}"}}"#,
        ulid(AUTHOR),
        ulid(ROUTE),
    );
    let (page, post) = (ulid(0xC1), ulid(0xC2));
    let expected = format!(
        "{{{meta},\"id\":\"{page}\",\"type\":\"Page\",\"title\":\"Hello\",\"slug\":\"hello\",\"published\":true,\
         \"viewCount\":42,\"body\":\"# Head\\n\\nText *a*\",\
         \"blog posts\":[{{{meta},\"id\":\"{post}\",\"type\":\"Blog Post\",\"title\":\"First\"}}]}}"
    );
    assert_eq!(text(&example(), Format::Clean), expected);
}

#[test]
fn an_empty_tree_has_an_empty_document() {
    for rows in [vec![], vec![post(1, 2), post(2, 1)], vec![node(1, None, None)]] {
        let count = rows.len();
        let tree = build(rows);
        assert_eq!(tree.left_out, count);
        assert_eq!(text(&tree, Format::Raw), r#"{"root":null}"#);
        assert_eq!(text(&tree, Format::Clean), "{}");
    }
}

#[test]
fn absent_ids_and_times_have_their_own_forms() {
    let mut bare = page(1);
    bare.content.route_id = None;
    bare.content.author_id = None;
    bare.content.date_created = None;
    bare.content.date_modified = None;
    let mut unset = field(2, "Title", FieldKind::Text, "");
    unset.value = None;
    bare.fields = vec![unset];
    let tree = build(vec![bare]);
    assert_eq!(
        document(&tree, Format::Clean),
        json!({"_meta": {"authorId": null, "routeId": null, "dateCreated": null, "dateModified": null},
            "id": ulid(1), "type": "Page", "title": ""})
    );
    let raw = document(&tree, Format::Raw);
    let content = &raw["root"]["datatype"]["content"];
    for (member, expected) in [
        ("route_id", "null"),
        ("author_id", "null"),
        ("date_created", ""),
        ("date_modified", ""),
    ] {
        assert_eq!(content[member], expected, "{member}");
    }
    assert_eq!(raw["root"]["fields"][0]["content"]["field_value"], "");
    assert_eq!(raw["root"]["fields"][0]["content"]["date_created"], "");
    assert_eq!(raw["root"].get("nodes"), None);
}

#[test]
fn children_follow_the_chain_and_strays_come_last_by_id() {
    let mut root = page(1);
    root.content.first_child_id = Some(content_id(4));
    let mut rows = vec![root, post(6, 1), post(5, 1), post(4, 1), post(3, 1), post(2, 1)];
    rows[3].content.next_sibling_id = Some(content_id(2)); // 4 -> 2
    rows[5].content.next_sibling_id = Some(content_id(6)); // 2 -> 6
    let tree = build(rows);
    assert_eq!(children(tree.root.as_ref().unwrap()), [4, 2, 6, 3, 5]);
    assert_eq!(tree.left_out, 0);
}

#[test]
fn a_chain_in_a_circle_is_not_followed() {
    let mut root = page(1);
    root.content.first_child_id = Some(content_id(4));
    let mut rows = vec![root, post(4, 1), post(3, 1), post(2, 1)];
    rows[1].content.next_sibling_id = Some(content_id(3));
    rows[2].content.next_sibling_id = Some(content_id(4));
    assert_eq!(children(build(rows).root.as_ref().unwrap()), [2, 3, 4]);
}

#[test]
fn a_chain_that_leaves_the_siblings_ends_there() {
    let mut root = page(1);
    root.content.first_child_id = Some(content_id(4));
    let mut rows = vec![root, post(4, 1), post(3, 1), post(2, 1), post(9, 2)];
    rows[1].content.next_sibling_id = Some(content_id(9)); // a nephew
    assert_eq!(children(build(rows).root.as_ref().unwrap()), [4, 2, 3]);
    let mut root = page(1);
    root.content.first_child_id = Some(content_id(77)); // nowhere
    assert_eq!(
        children(build(vec![root, post(3, 1), post(2, 1)]).root.as_ref().unwrap()),
        [2, 3]
    );
}

#[test]
fn rows_without_a_way_up_are_left_out() {
    let tree = build(vec![
        page(1),
        post(2, 1),
        post(3, 99), // its parent is not among the rows
        post(4, 5),  // below itself
        post(5, 4),
        node(6, Some(1), None), // its datatype was deleted
        post(7, 6),             // and so it hangs under nothing
        node(8, None, datatype(0xD2, "Blog Post", "post")),
    ]);
    assert_eq!(children(tree.root.as_ref().unwrap()), [2]);
    assert_eq!(tree.left_out, 6);
}

#[test]
fn a_row_without_datatype_does_not_break_the_order_of_its_siblings() {
    let mut root = page(1);
    root.content.first_child_id = Some(content_id(5));
    let mut rows = vec![root, post(5, 1), node(4, Some(1), None), post(3, 1), post(2, 1)];
    rows[1].content.next_sibling_id = Some(content_id(4));
    rows[2].content.next_sibling_id = Some(content_id(3));
    rows[3].content.next_sibling_id = Some(content_id(2));
    assert_eq!(children(build(rows).root.as_ref().unwrap()), [5, 3, 2]);
}

#[test]
fn the_root_is_found_by_its_datatype_not_by_its_parent() {
    let rows = vec![
        node(1, None, datatype(0xD2, "Blog Post", "post")),
        node(2, Some(1), datatype(0xD1, "Page", "ROOT")),
        post(3, 2),
    ];
    let tree = build(rows);
    assert_eq!(tree.root.as_ref().unwrap().content.content_data_id, content_id(2));
    assert_eq!(children(tree.root.as_ref().unwrap()), [3]);
}

#[test]
fn of_several_roots_the_oldest_at_the_top_is_taken_and_the_others_stay_where_they_hang() {
    let below = node(1, Some(3), datatype(0xD1, "Page", "ROOT"));
    let tree = build(vec![page(4), below, page(3)]);
    assert_eq!(tree.root.as_ref().unwrap().content.content_data_id, content_id(3));
    assert_eq!(children(tree.root.as_ref().unwrap()), [1]);
    assert_eq!(tree.left_out, 1);
}

#[test]
fn a_root_below_its_own_child_is_no_circle() {
    let root = node(1, Some(2), datatype(0xD1, "Page", "ROOT"));
    let tree = build(vec![root, post(2, 1)]);
    assert_eq!(children(tree.root.as_ref().unwrap()), [2]);
    assert!(tree.root.unwrap().children[0].children.is_empty());
}

#[test]
fn a_deep_tree_is_cut_and_readable() {
    let mut rows = vec![page(1)];
    rows.extend((2..=5_000).map(|number| post(number, number - 1)));
    let tree = build(rows);
    assert_eq!(tree.left_out, 5_000 - MAX_DEPTH);
    for format in Format::ALL {
        document(&tree, format); // serde_json itself refuses more than 128 nested values
    }
}

#[test]
fn labels_become_keys() {
    for (label, key) in [
        ("Title", "title"),
        ("SEO Meta", "seoMeta"),
        ("View Count", "viewCount"),
        ("open_graph-IMAGE url", "openGraphImageUrl"),
        ("  spaced   out ", "spacedOut"),
        ("featuredImage", "featuredimage"),
        ("ÜBER uns", "überUns"),
        ("", "field"),
        ("_-", "field"),
    ] {
        assert_eq!(field_key(label), key, "{label:?}");
    }
}

#[test]
fn children_are_named_after_their_only_type() {
    let key = |labels: &[&str]| {
        let mut rows = vec![page(1)];
        rows.extend(
            labels
                .iter()
                .zip(2..)
                .map(|(label, number)| node(number, Some(1), datatype(9, label, "x"))),
        );
        children_key(&build(rows).root.unwrap().children)
    };
    for (labels, expected) in [
        (&["Blog Post"][..], "blog posts"),
        (&["Post", "Post"], "posts"),
        (&["Category"], "categories"),
        (&["News"], "news"),
        (&["Post", "Category"], "children"),
        (&[""], "children"),
    ] {
        assert_eq!(key(labels), expected);
    }
}

#[test]
fn clean_values_are_typed_by_their_field() {
    for (kind, value, expected) in [
        (FieldKind::Text, "42", json!("42")),
        (FieldKind::Text, "", json!("")),
        (FieldKind::Boolean, "true", json!(true)),
        (FieldKind::Boolean, "TRUE", json!(false)),
        (FieldKind::Boolean, "", json!(false)),
        (FieldKind::Number, "4.5", json!(4.5)),
        (FieldKind::Number, "-3", json!(-3)),
        (FieldKind::Number, "007", json!(7)),
        (FieldKind::Number, " 42 ", json!(42)),
        (FieldKind::Number, "1e400", json!("1e400")),
        (FieldKind::Number, "NaN", json!("NaN")),
        (FieldKind::Number, "abc", json!("abc")),
        (FieldKind::Json, r#"{"a":[1,null]}"#, json!({"a": [1, null]})),
        (FieldKind::Json, "not json", json!("not json")),
        (FieldKind::Richtext, "# Head", json!("# Head")),
    ] {
        assert_eq!(
            only_field(field(2, "Value", kind, value))["value"],
            expected,
            "{kind:?} {value:?}"
        );
    }
}

#[test]
fn long_numbers_keep_every_digit() {
    let mut hello = page(1);
    hello.fields = vec![field(2, "Value", FieldKind::Number, "12345678901234567890123.4500")];
    assert!(text(&build(vec![hello]), Format::Clean).contains(r#""value":12345678901234567890123.4500"#));
}

#[test]
fn no_member_replaces_another() {
    let mut hello = page(1);
    hello.fields = vec![
        field(2, "Title", FieldKind::Text, "a"),
        field(3, "title", FieldKind::Text, "b"),
        field(4, "ID", FieldKind::Text, "c"),
        field(5, "Type", FieldKind::Text, "d"),
        field(6, "Posts", FieldKind::Text, "e"),
    ];
    let below = node(7, Some(1), datatype(9, "Post", "post"));
    let clean = document(&build(vec![hello, below]), Format::Clean);
    for (member, expected) in [
        ("title", "a"),
        ("title2", "b"),
        ("id2", "c"),
        ("type2", "d"),
        ("posts", "e"),
    ] {
        assert_eq!(clean[member], expected, "{member}");
    }
    assert_eq!(clean["id"], ulid(1));
    assert_eq!(clean["posts2"][0]["id"], ulid(7));
}

#[test]
fn formats_read_back_from_their_names() {
    for format in Format::ALL {
        assert_eq!(format.as_str().parse(), Ok(format));
    }
    for name in ["", "RAW", "sanity", "raw "] {
        assert_eq!(name.parse::<Format>(), Err(UnknownFormat), "{name:?}");
    }
    assert_eq!(
        UnknownFormat.to_string(),
        "Invalid format parameter. Valid options: clean, raw"
    );
}
