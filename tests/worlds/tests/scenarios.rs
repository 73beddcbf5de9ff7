//! Lent pages in all situations: each scenario as a test of its name, by what the NIC is.

use worlds::scenarios;

macro_rules! tests {
    (any: $($any:ident),+; scripted: $($scripted:ident),+;) => {
        mod scripted {
            $(
                #[test]
                fn $any() {
                    super::scenarios::$any::<worlds::Wire>();
                }
            )+
            $(
                #[test]
                fn $scripted() {
                    super::scenarios::$scripted();
                }
            )+
        }

        mod card {
            $(
                #[test]
                fn $any() {
                    super::scenarios::$any::<worlds::Card>();
                }
            )+
        }
    };
}

worlds::for_each_scenario!(tests);
