import pytest

from x2sam.data.tasks import (
    IMAGE,
    TASKS,
    VIDEO,
    CategoryList,
    ItemKind,
    find_task,
    is_sentence,
    task_of,
    template_texts,
    templates_of,
)
from x2sam.errors import PromptError
from x2sam.structures import Point, Prompt


def test_the_table_has_seven_tasks_per_modality_and_chat():
    for modality, region_task in ((IMAGE, "intseg"), (VIDEO, "objseg")):
        rows = [task for task in TASKS if task.modality == modality]
        names = {task.name for task in rows if task.segments}
        assert names == {"genseg", "ovseg", "refseg", "reaseg", "gcgseg", "vgdseg", region_task}
        assert [task.name for task in rows if not task.segments] == ["chat"]
    assert len({task.key for task in TASKS}) == len(TASKS) == 16


@pytest.mark.parametrize("task", [task for task in TASKS if task.segments], ids=lambda task: task.key)
def test_templates_fit_their_row(task):
    known = templates_of(task.templates)
    assert all(text.count("<SEG>") == 1 for text in known.answers + known.explain_answers + known.caption_answers)
    questions = known.questions + known.sentence_questions + known.explain_questions + known.caption_questions
    assert all(text.count("{items}") == (task.items is not ItemKind.NONE) for text in questions)
    assert task.served[0] < len(known.questions) and task.served[1] < len(known.answers)
    wrong = "video" if task.modality == IMAGE else "image"
    assert not any(f"this {wrong}" in text or f"the {wrong}" in text for text in questions)


def test_only_captions_and_chat_generate():
    assert {task.name for task in TASKS if task.generates} == {"gcgseg", "chat"}
    assert {task.name for task in TASKS if task.shares_conditions} == {"refseg", "reaseg"}
    assert len(template_texts()) > 100


@pytest.mark.parametrize(
    "text, name",
    [
        ("the dog on the left", "refseg"),
        ("a can of soda", "refseg"),
        ("can opener", "refseg"),
        ("2.5 l bottle", "refseg"),
        ("describe the picture", "gcgseg"),
        ("Describe this image in detail.", "gcgseg"),
        ("describe", "gcgseg"),
        ("What can be used to warm clothes?", "reaseg"),
        ("Please segment the thing you sit on", "reaseg"),
        ("Can you find the cat", "reaseg"),
        ("I want something to drink", "reaseg"),
        ("The man who is running.", "reaseg"),
        ("How many dogs are there?", "chat"),
        ("Is it raining?", "chat"),
        ("ins: person, car; sem: road", "genseg"),
    ],
)
@pytest.mark.parametrize("modality", [IMAGE, VIDEO])
def test_a_text_says_its_task(text, name, modality):
    assert task_of(Prompt(text=text), modality).key == find_task(name, modality).key


def test_regions_win_over_words():
    click = (Point(3, 4),)
    assert task_of(Prompt(points=click, text="dog"), IMAGE).key == "img_intseg"
    assert task_of(Prompt(boxes=((0, 0, 2, 2),)), VIDEO).key == "vid_objseg"
    assert task_of(Prompt(points=click, task="vgdseg"), VIDEO).key == "vid_vgdseg"


def test_names_ask_for_generic_segmentation():
    assert task_of(Prompt(categories=("dog", "cat")), VIDEO).key == "vid_genseg"
    assert task_of(Prompt(categories=("dog",), task="ovseg"), IMAGE).key == "img_ovseg"


@pytest.mark.parametrize("prompt", [Prompt(), Prompt(text="  "), Prompt(points=(Point(1, 1, positive=False),))])
def test_nothing_asked_is_an_error(prompt):
    with pytest.raises(PromptError, match="empty"):
        task_of(prompt, IMAGE)


def test_names_of_tasks():
    assert find_task("img_refseg", IMAGE).name == "refseg"
    assert find_task("objseg", IMAGE).key == "img_intseg"
    assert find_task("intseg", VIDEO).key == "vid_objseg"
    with pytest.raises(PromptError, match="choose one of"):
        find_task("nonsense", IMAGE)
    with pytest.raises(PromptError, match="video"):
        find_task("vid_refseg", IMAGE)


def test_category_lists():
    both = CategoryList.of(Prompt(text="ins: person, car; sem: road"))
    assert both == CategoryList(("person", "car", "road"), (True, True, False)) and both.mode == "panoptic"
    assert CategoryList.of(Prompt(text="dog, cat")).mode == "instance"
    assert CategoryList.of(Prompt(text="sem: sky, sea, sky")).names == ("sky", "sea")
    assert CategoryList.of(Prompt(text="sem: sky")).mode == "semantic"
    listed = CategoryList.of(Prompt(categories=("salt, pepper", "sem: sky", "note: odd")))
    assert listed == CategoryList(("salt, pepper", "sky", "note: odd"), (True, False, True))
    with pytest.raises(PromptError):
        CategoryList.of(Prompt(text=" ; "))


def test_sentences():
    assert is_sentence("What is it?") and is_sentence("He runs. She walks") and is_sentence("show me the way")
    assert not is_sentence("show jumper") and not is_sentence("point guard") and not is_sentence("orange segment")
