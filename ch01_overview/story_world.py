"""The story world: the words and sentences from which the book's corpus is told.

A text is told to a *narrator*, which knows two things only: `say` puts a fixed piece of text, and
`pick` chooses one of several pieces, each as likely as the others. `corpus.py` has two narrators.
One throws dice and writes; the other reads a finished text and finds out which choices were made.
Both run the very functions below, so what can be written can be read.

One rule makes the reading unique: **in one pick, no piece is the beginning of another**. Then the
text itself settles every choice, and a text has exactly one derivation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Character", "Facts", "Narrator", "tell"]

# Traits, looks and colours stand with the article that English wants before them.
# The second of the friends is a boy where the first is a girl, and the other way round; the third
# has a list of names for itself. So nobody has the name of another.
SHE = (
    *("Ada", "Bella", "Clara", "Daisy", "Elsa", "Flora", "Greta", "Hanna", "Ivy", "Lily", "Mia"),
    *("Nora",),
)
HE = ("Ben", "Carl", "Finn", "Hugo", "Jack", "Leo", "Max", "Otto", "Paul", "Sam", "Theo", "Victor")
THIRD_SHE = ("Pippa", "Rosa", "Tilly", "Vera", "Wilma", "Zoe")
THIRD_HE = ("Bruno", "Emil", "Felix", "Gus", "Kurt", "Walter")
KINDS = (
    *("badger", "bear", "beaver", "deer", "donkey", "duck", "fox", "frog", "goat", "goose"),
    *("hare", "hedgehog", "mole", "mouse", "otter", "owl", "rabbit", "squirrel", "swan", "turtle"),
)
TRAITS = (
    *(
        "a brave",
        "a cheerful",
        "a clever",
        "a curious",
        "a gentle",
        "a kind",
        "a merry",
        "a patient",
    ),
    *("a polite", "a quiet", "a shy", "a silly", "a sleepy", "a tidy", "an eager", "an honest"),
)
HOMES = (
    *("in a hollow tree", "in a cosy burrow", "in a cottage with a blue door", "on a little boat"),
    *(
        "under the roots of an oak",
        "behind the bakery",
        "beside a quiet pond",
        "in a tower of stone",
    ),
    *("in a nest of straw", "under an old cart", "above the toy shop", "between two tall rocks"),
    *("next to a windmill", "at the edge of the wood", "among the reeds", "inside a giant pumpkin"),
)
LOVES = (
    *("baking bread", "climbing trees", "counting stars", "dancing in the rain", "flying kites"),
    *("making soup", "painting flowers", "planting seeds", "reading books", "singing songs"),
    *("taking naps", "telling jokes", "drinking cocoa", "jumping over puddles", "knitting socks"),
    *("watching the clouds",),
)
DISLIKES = (
    *("big dogs", "busy streets", "cold soup", "dark cellars", "early mornings", "hot days"),
    *("itchy wool", "loud noises", "muddy boots", "rainy days", "sharp thorns", "steep stairs"),
    *("strong winds", "tight shoes", "wet socks", "wild waves"),
)
PLACES = (
    *("at the castle", "at the lighthouse", "at the market", "at the mill", "at the well"),
    *("by the lake", "by the river", "in the forest", "in the garden", "in the meadow"),
    *("in the orchard", "in the valley", "on the beach", "on the bridge", "on the hill"),
    *("on the island",),
)
OUTINGS = (
    *("at the fair", "at the fountain", "at the harbour", "at the theatre", "by the canal"),
    *("by the waterfall", "in the cave", "in the park", "in the vineyard", "in the village"),
    *("on the cliff", "on the square"),
)
LOOKS = (
    *("a bright", "a fine", "a lovely", "a magic", "a new", "a pretty", "a shiny", "a silver"),
    *("a tiny", "a rare", "a simple", "a useful", "an odd", "an old"),
)
THINGS = (
    *("ball", "basket", "bell", "cup", "drum", "feather", "flute", "hat", "kite", "lantern", "map"),
    *(
        "mirror",
        "necklace",
        "ribbon",
        "ring",
        "scarf",
        "shell",
        "spoon",
        "teapot",
        "umbrella",
        "whistle",
    ),
)
COLOURS = (
    *("a black", "a blue", "a brown", "a golden", "a green", "a grey", "a pink", "a purple"),
    *("a red", "a striped", "a white", "a yellow"),
)
CLOTHES = (
    *("apron", "belt", "bonnet", "cap", "veil", "cloak", "coat", "dress", "jacket", "robe"),
    *("shawl", "shirt"),
)
FOODS = (
    *("buns", "carrots", "cherries", "figs", "mushrooms", "nuts", "onions", "pancakes", "pears"),
    *("plums", "radishes", "turnips"),
)
NUMBERS = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


@dataclass(frozen=True)
class Character:
    """Somebody in a story: `Character("Mia", "shy", "owl")`."""

    name: str
    trait: str
    kind: str

    @property
    def article(self) -> str:
        """What English wants before the trait: "a" or "an"."""
        return "an" if f"an {self.trait}" in TRAITS else "a"

    @property
    def she(self) -> str:
        """The pronoun, capital and all: "She" or "He"."""
        return "She" if self.name in SHE + THIRD_SHE else "He"

    @property
    def her(self) -> str:
        """The possessive: "her" or "his"."""
        return "her" if self.name in SHE + THIRD_SHE else "his"


@dataclass(frozen=True)
class Facts:
    """What is true in a text. A field that its form does not have stands at its default.

    `holders` are the names of those who had the thing, in order: the last one has it at the end.
    `places` are where the text plays, in order. `away` has a (name, place) pair for each friend who
    left, and where to.
    """

    form: str  # "tale", "poem" or "dialogue"
    characters: tuple[Character, ...] = ()
    home: str = ""
    loves: str = ""
    thing: str = ""
    holders: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    away: tuple[tuple[str, str], ...] = ()

    @property
    def hero(self) -> Character | None:
        """The first of the characters: a tale's hero, the one who is asked in a dialogue."""
        return self.characters[0] if self.characters else None

    @property
    def holder(self) -> str | None:
        """The name of the one who has the thing at the end."""
        return self.holders[-1] if self.holders else None


class Narrator:
    """Writes a text, or reads one: see `corpus.py`."""

    def say(self, text: str) -> None:
        """Put `text` next."""
        raise NotImplementedError

    def pick(self, options: Sequence[str]) -> int:
        """Put one of `options` next, all equally likely, and return its index."""
        raise NotImplementedError


def tell(narrator: Narrator) -> Facts:
    """Tell one text, choosing its form by its first words."""
    openings = (*TALE_TITLES, *POEM_OPENINGS, *DIALOGUE_OPENINGS)
    chosen = openings[narrator.pick(openings)]
    if chosen in TALE_TITLES:
        return tell_tale(narrator)
    if chosen in POEM_OPENINGS:
        return tell_poem(narrator)
    return tell_dialogue(narrator, chosen)


def word(narrator: Narrator, words: Sequence[str]) -> str:
    """Pick one of `words`, and return it."""
    return words[narrator.pick(words)]


def bare(phrase: str) -> str:
    """The phrase without its first word: "an old" -> "old", "by the river" -> "the river"."""
    return phrase.split(" ", 1)[1]


# ---------------------------------------------------------------- tales

TALE_TITLES = (
    "A day with ",
    "A story about ",
    "A tale about ",
    "Good news from ",
    "The adventure of ",
    "The luck of ",
    "The story of ",
    "The tale of ",
)
OPENINGS = (
    "Once upon a time there was ",
    "Long ago there lived ",
    "There once was ",
    "Far away, beyond the hills, lived ",
    "In a land of green fields there lived ",
    "Many years ago there was ",
    "Listen! There was ",
    "When the world was young there lived ",
)
FRIENDS = (
    "Next door lived ",
    "Across the stream lived ",
    "Not far away lived ",
    "Up the lane lived ",
)
THIRDS = (" The third of the friends was ", " They often played with ", " They liked to visit ")
MORNINGS = (" One day ", " One fine morning ", " On the first day of spring ")
LINKS = (" Then ", " Soon ", " A little later, ", " Before long, ", " After a while, ")
EVENINGS = (
    " At sunset ",
    " That night ",
    " In the evening ",
    " When it grew dark, ",
    " At the end of the day ",
)
AIRS = (
    *("apples", "bread", "clover", "dew", "hay", "honey", "leaves", "mint", "moss", "pine", "rain"),
    *("roses", "smoke", "snow", "spring", "summer"),
)
JOYS = ("a bee", "a clown", "a cricket", "a king", "a lark", "a puppy", "a queen", "the sun")
PRAISES = (
    *(
        "beautiful",
        "charming",
        "cheery",
        "dainty",
        "delightful",
        "marvellous",
        "perfect",
        "splendid",
    ),
    *("strange", "sweet", "grand", "wonderful"),
)
SPOTS = ("under ", "beside ", "behind ", "near ", "on top of ")
SIZES = (
    *("the big ", "the broken ", "the dusty ", "the heavy ", "the low ", "the narrow "),
    *("the round ", "the warm ", "the wide ", "the wooden "),
)
FURNITURE = (
    *("armchair", "bath", "bed", "bench", "bookcase", "chest", "clock", "cupboard", "desk", "oven"),
    *("shelf", "stool", "table", "window"),
)
DREAMS = (
    *("deep caves", "dragons", "falling stars", "far lands", "flying fish", "giants"),
    *("green hills", "ice cream", "lost treasure", "new friends", "old songs", "paper boats"),
    *("sea shells", "talking trees", "tall ships", "warm bread"),
)
CLOSINGS = (" All slept well.", " The owls were awake.", " What a day!", " The moon smiled.")
MOST_EVENTS = 6  # a tale stays short enough for a small model's context


def tell_tale(narrator: Narrator) -> Facts:
    """A tale: a title, who there was, what was found, what became of it, how the day ended."""
    hero = speaker(narrator, word(narrator, SHE + HE))
    narrator.say(":\n")
    narrator.pick(OPENINGS)
    narrator.say(f"{hero.article} {hero.trait} {hero.kind} called {hero.name}. {hero.she} lived ")
    home = word(narrator, HOMES)
    narrator.say(", loved ")
    loves = word(narrator, LOVES)
    narrator.say(" and hated ")
    narrator.pick(DISLIKES)
    narrator.say(". ")
    narrator.pick(FRIENDS)
    cast = [hero, befriend(narrator, HE if hero.name in SHE else SHE)]
    if narrator.pick(THIRDS + MORNINGS) < len(THIRDS):
        cast.append(befriend(narrator, THIRD_SHE + THIRD_HE))
        narrator.pick(MORNINGS)
    scene = Scene(narrator, cast)
    scene.find()
    narrator.pick(LINKS)
    scene.happen()
    n_events = 1
    while narrator.pick(EVENINGS + LINKS * (n_events < MOST_EVENTS)) >= len(EVENINGS):
        scene.happen()
        n_events += 1
    scene.end()
    return Facts(
        form="tale",
        characters=tuple(cast),
        home=home,
        loves=loves,
        thing=scene.thing,
        holders=tuple(c.name for c in scene.holders),
        places=tuple(scene.places),
        away=tuple(scene.away),
    )


def describe(narrator: Narrator) -> tuple[str, str]:
    """Pick a trait and a kind, told as "a shy owl"."""
    trait = bare(word(narrator, TRAITS))
    narrator.say(" ")
    return trait, word(narrator, KINDS)


def befriend(narrator: Narrator, names: Sequence[str]) -> Character:
    """Pick a friend, told as "Ben, a brave fox in a green coat."."""
    name = word(narrator, names)
    narrator.say(", ")
    trait, kind = describe(narrator)
    wear(narrator)
    narrator.say(".")
    return Character(name, trait, kind)


def wear(narrator: Narrator) -> None:
    """Pick " in a green coat"."""
    narrator.say(" in ")
    narrator.pick(COLOURS)
    narrator.say(" ")
    narrator.pick(CLOTHES)


def groceries(narrator: Narrator) -> None:
    """Pick "three plums"."""
    narrator.pick(NUMBERS)
    narrator.say(" ")
    narrator.pick(FOODS)


class Scene:
    """The day of a tale: who is present, who has the thing, where everybody is."""

    def __init__(self, narrator: Narrator, cast: list[Character]):
        self.narrator, self.present = narrator, list(cast)
        self.away: list[tuple[str, str]] = []  # who left, and where to

    def find(self) -> None:
        """Somebody comes by a thing somewhere."""
        ways = ("found", "made", "bought", "won")
        options = [f"{c.name} {way} " for c in self.present for way in ways]
        finder = self.present[self.narrator.pick(options) // len(ways)]
        look = bare(word(self.narrator, LOOKS))
        self.narrator.say(" ")
        self.thing = f"{look} {word(self.narrator, THINGS)}"
        self.narrator.say(" ")
        self.places = [word(self.narrator, PLACES)]
        self.narrator.say(".")
        self.holders = []
        self.get(finder)

    def happen(self) -> None:
        """One event: the thing changes hands, or nearly, or the friends move, or one leaves."""
        thing, holder = self.thing, self.holders[-1]
        others = [c for c in self.present if c is not holder]
        several = len(others) > 1
        events = {
            f"{holder.name} gave the {thing} to ": self.give,
            f"{holder.name} dropped the {thing}, and ": self.lose,
            f"{holder.name} handed over the {thing} when ": self.hand_over,
            f"{holder.name} swapped the {thing} for ": self.swap,
            f"{holder.name} shook {holder.her} head when ": self.refuse,
            f"they {'all ' * several}went to ": self.move,
        }
        if several:
            events[f"{holder.name} waved goodbye to "] = self.leave
        chosen = self.narrator.pick(list(events))
        list(events.values())[chosen](others)

    def somebody(self, others: list[Character], does: str) -> Character:
        """Pick one of the others, who `does` something."""
        return others[self.narrator.pick([c.name + does for c in others])]

    def give(self, others: list[Character]) -> None:
        """The thing is a present."""
        self.get(self.somebody(others, "."))

    def lose(self, others: list[Character]) -> None:
        """Finders keepers."""
        self.get(self.somebody(others, " picked it up."))

    def hand_over(self, others: list[Character]) -> None:
        """It helps to be polite."""
        self.get(self.somebody(others, " asked nicely."))

    def swap(self, others: list[Character]) -> None:
        """The thing changes hands for something good to eat."""
        groceries(self.narrator)
        self.narrator.say(" from ")
        self.get(self.somebody(others, "."))

    def refuse(self, others: list[Character]) -> None:
        """Nothing changes hands; somebody minds, or does not."""
        other = self.somebody(others, f" asked for the {self.thing}.")
        self.narrator.pick(
            [
                " It was no use.",
                f" {other.name} did not mind.",
                f' "Then maybe tomorrow," said {other.name}.',
                " So that was that.",
            ]
        )

    def move(self, _: list[Character]) -> None:
        """Everybody present goes somewhere else."""
        self.places.append(self.go())

    def get(self, character: Character) -> None:
        """The thing is in somebody's hands, who is glad."""
        self.holders.append(character)
        way = self.narrator.pick(
            [
                f" {character.name} was as happy as ",
                ' "How ',
                f" {character.name} called the {self.thing} ",
            ]
        )
        self.narrator.pick(JOYS if way == 0 else PRAISES)
        self.narrator.say(f'!" cried {character.name}.' if way == 1 else ".")

    def leave(self, others: list[Character]) -> None:
        """One friend goes away and stays there."""
        other = self.somebody(others, ", who went to ")
        self.present.remove(other)
        self.away.append((other.name, self.go()))

    def go(self) -> str:
        """Pick a place to go to, told as "the park.", and what there is about it."""
        place = OUTINGS[self.narrator.pick([f"{bare(p)}." for p in OUTINGS])]
        spot = bare(place)
        self.narrator.pick(
            [
                f" The {bare(spot)} smelled of ",
                f" Near {spot} they spoke about ",
                f" Over {spot} a bird sang of ",
            ]
        )
        self.narrator.pick(AIRS)
        self.narrator.say(".")
        return place

    def end(self) -> None:
        """The holder takes the thing home and goes to sleep."""
        holder = self.holders[-1]
        self.narrator.pick(
            [
                f"{holder.name} took the {self.thing} home and put it ",
                f"{holder.name} went home and put the {self.thing} ",
                f"{holder.name} carried the {self.thing} home and kept it ",
            ]
        )
        self.narrator.pick(SPOTS)
        self.narrator.pick(SIZES)
        self.narrator.pick(FURNITURE)
        self.narrator.say(".")
        self.narrator.pick(CLOSINGS)
        self.narrator.say(f" {holder.name} dreamed of ")
        self.narrator.pick(DREAMS)
        self.narrator.say(".")


# ---------------------------------------------------------------- poems

POEM_OPENINGS = ("A little song about ", "A short poem about ")
# For each couplet of a poem the rhymes it may have. A rhyme has first lines and second lines; the
# star stands for the kind.
RHYMES = (
    (
        (
            (
                "The * is dancing in the light",
                "The stars are small and far and bright",
                "We wave the sleepy sun good night",
                "The snow upon the roof is white",
            ),
            (
                "Our * has a paper kite",
                "A candle burns for our delight",
                "Soft shadows dance, but not from fright",
            ),
        ),
        (
            (
                "The * is sleeping in the hay",
                "Come out, come out, come out and play",
                "See how the * runs away",
                "We sang and skipped the livelong day",
            ),
            (
                "The little boats rock in the bay",
                "The * knows a secret way",
                "It is the very first of May",
            ),
        ),
        (
            (
                "The * is sailing on the sea",
                "A nest is hidden in the tree",
                "The wind is wild, the wind is free",
                "Around the roses hums a bee",
            ),
            (
                "Dear *, come and sit with me",
                "Our * bakes a cake for tea",
                "The hive is busy as can be",
            ),
        ),
    ),
    (
        (
            (
                "The * is gazing at the moon",
                "The roses bloom again in June",
                "We walk along and hum a tune",
            ),
            (
                "Hush, little *, sleep comes soon",
                "The lazy clouds drift by at noon",
                "My * has a silver spoon",
                "The night is like a blue balloon",
            ),
        ),
        (
            (
                "The * is strolling through the town",
                "The leaves are gold and red and brown",
                "The rain is softly falling down",
            ),
            (
                "Our * wears a paper crown",
                "Today nobody wears a frown",
                "Who has a coat of eiderdown",
            ),
        ),
        (
            (
                "The * likes to count the sheep",
                "The pond is cool, the pond is deep",
                "Beneath the door the shadows creep",
            ),
            (
                "Good *, close your eyes and sleep",
                "A secret is a thing to keep",
                "From every nest the chicks all peep",
            ),
        ),
    ),
    (
        (
            (
                "The * has begun to sing",
                "The bells across the valley ring",
                "A robin rests a tired wing",
            ),
            (
                "Each * loves the days of spring",
                "Who knows what gifts the wind will bring",
                "Up goes the swing upon its string",
            ),
        ),
        (
            (
                "The * hops along the wall",
                "The mountains stand up blue and tall",
                "The apples ripen and they fall",
            ),
            (
                "Small *, can you hear me call",
                "There is enough for one and all",
                "A frog is sitting on a ball",
            ),
        ),
    ),
)
REFRAINS = (
    "So ends the song, and all is well.",
    "Good night, sleep tight, until the day.",
    "And that is all there is to tell.",
)


def tell_poem(narrator: Narrator) -> Facts:
    """A title, and three rhymed couplets about a place and somebody there."""
    place = PLACES[narrator.pick([bare(p) for p in PLACES])]
    narrator.say(" and ")
    trait, kind = describe(narrator)
    wear(narrator)
    narrator.say(":\n")
    for rhymes in RHYMES:
        lines = [(line.replace("*", kind), rhyme) for rhyme in rhymes for line in rhyme[0]]
        _, rhyme = lines[narrator.pick([line for line, _ in lines])]
        narrator.say(",\n")
        narrator.pick([line.replace("*", kind) for line in rhyme[1]])
        narrator.say(".\n")
    narrator.pick(REFRAINS)
    return Facts(form="poem", characters=(Character("", trait, kind),), places=(place,))


# ---------------------------------------------------------------- dialogues

DIALOGUE_OPENINGS = ('"Hello, ', '"Good morning, ')
QUESTIONS = ("What have you got there?", "What is that?", "What are you holding?")
WAYS = ("found it ", "bought it ", "won it ")
MOST_REQUESTS = 6


def tell_dialogue(narrator: Narrator, greeting: str) -> Facts:
    """Two friends talk about a thing that one of them has and the other would like."""
    name = word(narrator, SHE + HE)
    narrator.say('," said ')
    host = speaker(narrator, word(narrator, HE if name in SHE else SHE))
    narrator.say('. "What a ')
    narrator.pick(PRAISES)
    narrator.say(" ")
    narrator.pick(CLOTHES)
    narrator.say(f'!"\n{greeting}{host.name}," said {name}')
    guest = speaker(narrator, name)
    narrator.say('. "')
    narrator.pick(QUESTIONS)
    narrator.say('"\n"It is ')
    look = bare(word(narrator, LOOKS))
    narrator.say(" ")
    thing = f"{look} {word(narrator, THINGS)}"
    narrator.say(f'," said {host.name}. "I ')
    narrator.pick(WAYS)
    place = word(narrator, PLACES)
    narrator.say('."\n')
    holders = bargain(narrator, [host], guest, thing)
    other = guest if holders[-1] is host else host
    narrator.say(f"So {holders[-1].name} went home with the {thing}, and {other.name} began ")
    narrator.pick(LOVES)
    narrator.say(".")
    return Facts(
        form="dialogue",
        characters=(host, guest),
        thing=thing,
        holders=tuple(c.name for c in holders),
        places=(place,),
    )


def speaker(narrator: Narrator, name: str) -> Character:
    """Pick "the shy owl" after a name."""
    narrator.say(" the ")
    trait = TRAITS[narrator.pick([bare(t) for t in TRAITS])]
    narrator.say(" ")
    return Character(name, bare(trait), word(narrator, KINDS))


def bargain(
    narrator: Narrator, holders: list[Character], other: Character, thing: str
) -> list[Character]:
    """Requests and answers, until one of the two has to go; returns all holders in order."""
    for n_requests in range(MOST_REQUESTS + 1):
        holder = holders[-1]
        farewells = [
            f'"It is getting late," said {holder.name}.\n',
            f'"I must go now," said {other.name}.\n',
            f'"Look, the moon is up," said {other.name}.\n',
            f'"Is it so late?" asked {other.name}.\n',
        ]
        requests = [
            f'"May I have it?" asked {other.name}.\n',
            f'"Please give me the {thing}," said {other.name}.\n',
            f'"I would love the {thing}," said {other.name}.\n',
            '"I will give you ',
        ]
        first, last = n_requests == 0, n_requests == MOST_REQUESTS
        options = ([] if first else farewells) + ([] if last else requests)
        chosen = options[narrator.pick(options)]
        if chosen in farewells:
            break
        if chosen == requests[-1]:
            groceries(narrator)
            narrator.say(f' for it," said {other.name}.\n')
        yes = [
            f'"Yes, take it," said {holder.name}.\n',
            f'"Of course," said {holder.name}. "It is yours now."\n',
            f'"Here you are," said {holder.name}.\n',
        ]
        no = [
            f'"No, I need it," said {holder.name}.\n',
            f'"Not today," said {holder.name}.\n',
            f'"Sorry, it is not for you," said {holder.name}.\n',
        ]
        if narrator.pick(yes + no) < len(yes):
            holders, other = [*holders, other], holder
    return holders
