//! Rules, compared with ip-rule(8).

use super::{assert_same, fill, list};
use agent_kernel::netlink::{Family, Rule, rules};
use serde_json::{Value, json};

#[test]
fn rules_are_those_that_ip_shows() {
    let _world = fill();
    for (family, name) in [(Family::Inet, "-4"), (Family::Inet6, "-6")] {
        let ours = rules(Some(family)).expect("rules");
        let ours: Vec<Rule> = ours.collect::<Result<_, _>>().expect("whole rules");
        let theirs = list(&format!("ip -j -d {name} rule show"));
        assert_same(ours.iter().map(rule_as_ip).collect(), theirs);
    }
    let both = rules(None).expect("rules").count();
    assert_eq!(both, list("ip -j -4 rule").len() + list("ip -j -6 rule").len());
}

fn rule_as_ip(rule: &Rule) -> Value {
    let mut value = json!({
        "priority": rule.priority, "src": "all", "protocol": rule.protocol,
    });
    let mut net = |key: &str, length: &str, net: Option<ipnet::IpNet>| {
        if let Some(net) = net {
            value[key] = net.addr().to_string().into();
            if net.prefix_len() != net.max_prefix_len() {
                value[length] = net.prefix_len().into();
            }
        }
    };
    net("src", "srclen", rule.src);
    net("dst", "dstlen", rule.dst);
    let table = rule.table.filter(|_| !rule.l3mdev).map(|table| match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        number => number.to_string(),
    });
    let hex = |number: u32| format!("{number:#x}");
    let ports = |key: &str, ports: &Option<std::ops::RangeInclusive<u16>>| {
        ports.as_ref().map(|ports| match (*ports.start(), *ports.end()) {
            (start, end) if start == end => vec![(key.to_owned(), json!(start))],
            (start, end) => {
                vec![(format!("{key}_start"), json!(start)), (format!("{key}_end"), json!(end))]
            }
        })
    };
    let fields = [
        ("table", table.map(Value::from)),
        ("iif", rule.iif.clone().map(Value::from)),
        ("oif", rule.oif.clone().map(Value::from)),
        ("fwmark", rule.fwmark.map(hex).map(Value::from)),
        ("fwmask", rule.fwmask.filter(|mask| *mask != u32::MAX).map(hex).map(Value::from)),
        ("tos", (rule.tos != 0).then(|| hex(rule.tos.into()).into())),
        (
            "ipproto",
            rule.ip_protocol.map(|number| if number == 6 { "tcp".into() } else { number.into() }),
        ),
        ("uid_start", rule.uids.as_ref().map(|uids| (*uids.start()).into())),
        ("uid_end", rule.uids.as_ref().map(|uids| (*uids.end()).into())),
        ("suppress_prefixlen", rule.suppress_prefix_len.map(Value::from)),
        ("not", rule.inverted.then_some(Value::Null)),
        ("l3mdev", rule.l3mdev.then_some(Value::Null)),
        ("goto", rule.goto.map(Value::from)),
        ("nop", (rule.action == "nop").then_some(Value::Null)),
        // ip tells lookup and goto by what comes with them.
        (
            "action",
            (rule.action == "blackhole" || rule.action == "prohibit").then(|| json!(rule.action)),
        ),
    ];
    for (key, field) in fields {
        if let Some(field) = field {
            value[key] = field;
        }
    }
    for (key, field) in
        [ports("sport", &rule.sport), ports("dport", &rule.dport)].into_iter().flatten().flatten()
    {
        value[key] = field;
    }
    value
}
